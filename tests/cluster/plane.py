"""A control plane of the real programs: etcd, API server, controllers, scheduler, KubeRay.

No containers, no root, no packages: nodes are objects, and pods run nowhere. What is asked of the
API server is answered by the real one: schemas, admission, quotas, rights, who owns which field.
"""

from __future__ import annotations

import contextlib
import csv
import json
import lzma
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import urllib3
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cluster.waiting import until
from tests.conftest import ROOT
from tools.chart_binaries import PEERS, kubectl

# A folder of the programs, as `make test CLUSTER=…` names it.
FOLDER = Path(os.environ.get("CLUSTER", ROOT.parent / "shared" / "cluster"))
_PROGRAMS = {"etcd": "etcd", "kuberay-operator": "kuberay-operator"}
_PROGRAMS |= dict.fromkeys(("apiserver", "controller-manager", "scheduler"), "kube")
_START_S = 60.0
_MOST_S = 240.0  # of one kubectl: the CRDs are four megabytes, and others may use the machine too
# Users by token. Only the admin may do anything; tests give `dev` what it may do.
_USERS = {"admin": "system:masters", "dev": "developers"}


def missing() -> str:
    """Why there can be no control plane here; empty where there can."""
    if shutil.which("setpriv") is None:
        return "no setpriv: the control plane is made of Linux programs"
    for archive in sorted(set(_PROGRAMS.values())):
        if not (FOLDER / "programs" / f"{archive}.xz").is_file():
            return f"no {archive} in {FOLDER}/programs: name their folder with CLUSTER=…"
    return ""


class Plane:
    """The control plane that runs."""

    def __init__(self, folder: Path, address: str) -> None:
        self.address = address
        self._folder = folder

    def kubeconfig(self, user: str = "admin") -> Path:
        """For one of the users."""
        path = self._folder / f"{user}.conf"
        if path.exists():  # somebody may be reading it
            return path
        authority = str(self._folder / "certs" / "apiserver.crt")
        cluster = {"server": self.address, "certificate-authority": authority}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "plane", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": user}}],
            "contexts": [{"name": user, "context": {"cluster": "plane", "user": user}}],
            "current-context": user,
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints; it has to succeed."""
        done = subprocess.run(
            [str(kubectl()), "--kubeconfig", str(self.kubeconfig()), *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=_MOST_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def await_kinds(self, version: str, *plurals: str) -> None:
        """Wait until kinds of a group are served: their CRDs were applied just now."""

        def missing() -> set[str]:
            with contextlib.suppress(AssertionError):  # the group itself is not there yet
                found = json.loads(self.kubectl("get", "--raw", f"/apis/{version}"))["resources"]
                return set(plurals) - {each["name"] for each in found}
            return set(plurals)

        assert not until(missing, lambda names: not names)

    def apply(self, *objects: object) -> None:
        """Put objects there."""
        text = yaml.safe_dump_all(objects)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=text)


@contextlib.contextmanager
def running(folder: Path, operated: str) -> Iterator[Plane]:
    """Start one that keeps its state in a folder.

    Args:
        operated: Namespaces that KubeRay's operator looks after, with commas between.
    """
    _tokens(folder)
    with contextlib.ExitStack() as stack:
        etcd, peer, port = (_free_port() for _ in range(3))
        store = f"http://127.0.0.1:{etcd}"
        stack.enter_context(_started(folder, "etcd", *_etcd(folder, store, peer)))
        api = stack.enter_context(_started(folder, "apiserver", *_api_server(folder, store, port)))
        plane = Plane(folder, f"https://127.0.0.1:{port}")
        _await(plane, api)
        config = f"--kubeconfig={plane.kubeconfig()}"
        manager = [config, f"--service-account-private-key-file={folder}/accounts.key"]
        # Nobody tells that nodes live.
        manager.append("--controllers=*,-node-lifecycle-controller,-node-ipam-controller")
        alone = ["--leader-elect=false", "--secure-port=0"]
        stack.enter_context(_started(folder, "controller-manager", *manager, *alone))
        stack.enter_context(_started(folder, "scheduler", config, *alone))
        plane.kubectl("apply", "--server-side", "-f", str(FOLDER / "kuberay"))
        plane.await_kinds("ray.io/v1", "rayservices", "rayclusters", "rayjobs")
        # As a process of its own: the pod of its Deployment runs nowhere.
        operator = [config, "-enable-leader-election=false", f"-watch-namespace={operated}"]
        operator += ["-metrics-addr=0", "-health-probe-bind-address=0", "-use-kubernetes-proxy"]
        gates = "RayClusterStatusConditions=true,RayServiceIncrementalUpgrade=true"
        stack.enter_context(
            _started(folder, "kuberay-operator", *operator, f"-feature-gates={gates}")
        )
        yield plane


def _etcd(folder: Path, store: str, peer: int) -> list[str]:
    return [
        f"--data-dir={folder}/etcd",
        f"--listen-client-urls={store}",
        f"--advertise-client-urls={store}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _api_server(folder: Path, store: str, port: int) -> list[str]:
    key = f"{folder}/accounts.key"
    return [
        f"--etcd-servers={store}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder}/certs",
        f"--token-auth-file={folder}/tokens.csv",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-cluster-ip-range=198.19.0.0/24",
    ]


def _tokens(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    (folder / "accounts.key").write_bytes(text)
    with (folder / "tokens.csv").open("w", newline="") as file:
        csv.writer(file).writerows([name, name, name, group] for name, group in _USERS.items())


def _program(name: str) -> Path:
    """Unpacked once, into the checkout's folder of tools."""
    archive = FOLDER / "programs" / f"{_PROGRAMS[name]}.xz"
    target = PEERS / "cluster" / _PROGRAMS[name]
    if not target.exists() or target.stat().st_mtime < archive.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}")
        with lzma.open(archive) as packed, part.open("wb") as file:
            shutil.copyfileobj(packed, file)
        part.chmod(0o755)
        part.rename(target)
    if _PROGRAMS[name] == name:
        return target
    link = target.with_name(f"kube-{name}")  # it is what it is called
    if not link.exists():
        link.symlink_to(target.name)
    return link


@contextlib.contextmanager
def _started(folder: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            # A test run that is killed leaves nothing behind.
            ["setpriv", "--pdeathsig", "TERM", str(_program(name)), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(plane: Plane, process: subprocess.Popen[bytes]) -> None:
    pool = urllib3.PoolManager(cert_reqs="CERT_NONE")
    deadline = time.monotonic() + _START_S
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    while time.monotonic() < deadline:
        assert process.poll() is None, "the API server ended: see apiserver.log"
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            headers = {"Authorization": "Bearer admin"}
            url = f"{plane.address}/readyz"
            if pool.request("GET", url, headers=headers, timeout=2, retries=False).status == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"the API server is not there after {_START_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
