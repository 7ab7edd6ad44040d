"""Trivium's image, packed from folders. It stands in for the Dockerfile, which needs a builder.

Three layers: Debian with the packages of the lock (minutes, when the lock changes), the models that
need no hub (when what makes them changes), and the code (seconds). It differs from the Dockerfile's
in its base, Debian's Python instead of Ray's own image, and in what makes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.cluster.machine import BIN, ROOT, Cluster, Failure
from tools.sources import Sources

IMAGE = "docker.io/library/trivium:cpu"
NEXT = "docker.io/library/trivium:cpu-next"  # what an upgrade goes to
USER = (1000, 100)  # `ray` of Ray's images
PYTHON = "python3.11"
DEBIAN = ("python3", "ca-certificates", "libgomp1", "libnuma1", "procps", "wget")
ENVIRONMENT = (
    "PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME=/home/ray",
    "PYTHONDONTWRITEBYTECODE=1",
    "RAY_USAGE_STATS_ENABLED=0",
    "TRIVIUM_SHIPPED_MODELS=/opt/trivium/models",
)
# What the models are made of and by.
_MAKERS = ("models.py", "router/export.py", "router/encoder.py", "router/narrow.safetensors")


def packages(cluster: Cluster) -> str:
    """Name of the image with Debian and the lock's packages; packed if it is not there."""
    content = digest(ROOT / "requirements/cpu.lock", text=repr((DEBIAN, ENVIRONMENT, USER)))
    name = f"docker.io/library/trivium-base:{content}"
    if name not in cluster.images():
        with scratch() as work:
            root = work / "root"
            debian(root, DEBIAN, "ray")
            _venv(root / "opt/venv")
            _install(root / "opt/venv", work / "runtime.txt")
            cluster.pack(
                root,
                name,
                *("--env", *ENVIRONMENT),
                *("--user", f"{USER[0]}:{USER[1]}", "--workdir", "/opt/trivium"),
            )
    return name


def models(cluster: Cluster, base: str) -> str:
    """Name of the image that has the small models too."""
    makers = (ROOT / "serve_app" / name for name in _MAKERS)
    name = f"docker.io/library/trivium-models:{digest(*makers, text=base)}"
    if name not in cluster.images():
        with scratch() as work:
            target = work / "layer/opt/trivium"
            _execute(
                [str(BIN / "trivium"), "prepare", "--config", "configs/local.yaml"],
                TRIVIUM_STATE_DIR=str(target),
                PYTHONPATH=str(ROOT),
            )
            cluster.pack(work / "layer", name, "--base", base)
    return name


def code(cluster: Cluster, base: str, image: str = IMAGE, *, mark: str = "") -> None:
    """Pack this checkout on top of the rest, under the name that the chart's profile has.

    Args:
        mark: Written into the image, so that it differs from another of the same code.
    """
    with scratch() as work:
        layer = work / "layer"
        _uv(
            *("install", "--prefix", str(layer / "opt/venv"), "--compile-bytecode"),
            *("--no-build-isolation", str(ROOT)),
        )
        _relocate(layer / "opt/venv")
        shutil.copytree(ROOT / "configs", layer / "opt/trivium/configs")
        (layer / "opt/trivium/mark").write_text(mark, encoding="utf-8")
        cluster.pack(layer, image, "--base", base)


def debian(root: Path, include: tuple[str, ...], user: str) -> None:
    """A folder with Debian, some of its packages and one user."""
    packages = f"--include={','.join(include)}"
    _execute(["mmdebstrap", "--quiet", "--variant=minbase", packages, "bookworm", str(root)])
    with (root / "etc/passwd").open("a", encoding="ascii") as accounts:
        accounts.write(f"{user}:x:{USER[0]}:{USER[1]}::/home/{user}:/bin/bash\n")
    for folder in (f"home/{user}", "opt/trivium", "var/lib/trivium"):
        (root / folder).mkdir(parents=True)
        os.chown(root / folder, *USER)


def _venv(folder: Path) -> None:
    """An environment of the image's Python, whose packages are put there from outside."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(f"/usr/bin/{PYTHON}")
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")


def _install(venv: Path, runtime: Path) -> None:
    """What the Dockerfile installs: the lock without the tools of development."""
    lock = str(ROOT / "requirements/cpu.lock")
    overrides = ("overrides.txt", "overrides-cpu.txt")
    _uv(
        *("compile", str(ROOT / "pyproject.toml"), "--extra", "cpu", "--python-version", "3.11"),
        *("--only-binary", ":all:", "--constraints", lock, "--no-annotate", "--no-header"),
        *(part for name in overrides for part in ("--overrides", f"requirements/{name}")),
        *("-o", str(runtime)),
    )
    _uv(
        *("install", "--prefix", str(venv), "--only-binary", ":all:", "--compile-bytecode"),
        *("-r", str(runtime), "-c", lock),
    )
    _relocate(venv)


def _uv(do: str, *arguments: str) -> None:
    """`uv pip`, by the Python of this environment, from where pip is configured to look."""
    lock = (ROOT / "requirements/cpu.lock").read_text(encoding="utf-8")
    torch = re.search(r"^torch==(\S+)", lock, re.MULTILINE)
    assert torch
    environment = Sources.from_pip(sys.executable).for_cpu(torch[1], (3, 11))
    alone = ["--no-deps", "--python", sys.executable] if do == "install" else []
    _execute([str(BIN / "uv"), "pip", do, "--quiet", *alone, *arguments], **environment)


def _relocate(venv: Path) -> None:
    """Scripts that start the image's Python, not the one that installed them."""
    for script in (venv / "bin").iterdir():
        text = b"" if script.is_symlink() else script.read_bytes()
        if text.startswith(b"#!") and b"python" in text.partition(b"\n")[0]:
            script.unlink()  # it may be a link into uv's cache
            script.write_bytes(b"#!/opt/venv/bin/python\n" + text.partition(b"\n")[2])
            script.chmod(0o755)


def _execute(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if done.returncode:
        raise Failure(f"`{' '.join(command[:4])} …` failed: {done.stderr.strip()[-2000:]}")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the disk of uv's cache, whose files are then linked and not copied."""
    parent = ROOT / ".trivium" / "cluster"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


def digest(*files: Path, text: str = "") -> str:
    digest = hashlib.sha256(text.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
