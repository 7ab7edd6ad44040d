"""The cluster's script, and what this machine lacks for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.chart_binaries import helm, kubectl

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# Command → Debian package that has it.
PROGRAMS = {
    "iptables": "iptables",
    "ipset": "ipset",
    "containerd": "containerd",
    "runc": "runc",
    "openssl": "openssl",
    "xz": "xz-utils",
    "mmdebstrap": "mmdebstrap",
}
CNI = Path("/usr/lib/cni/bridge")


class Failure(Exception):
    """A step failed; says which and what to do."""


class Cluster:
    """A folder with the `cluster` script, whose cluster is one per machine."""

    def __init__(self, folder: Path) -> None:
        self._script = folder / "cluster"
        self._environment = {
            **os.environ,
            "KUBECTL": str(kubectl()),
            "PATH": f"{helm().parent}:{kubectl().parent}:{os.environ['PATH']}",
        }

    def call(self, *arguments: str, timeout_s: float = 600) -> str:
        """What the script prints.

        Raises:
            Failure: It failed; with what it said.
        """
        done = subprocess.run(
            [str(self._script), *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-3000:]
            raise Failure(f"`cluster {' '.join(arguments[:6])}` failed: {said}")
        return done.stdout

    def run(self, *command: str, timeout_s: float = 600) -> str:
        """What a command prints that runs inside the cluster's network, with its KUBECONFIG."""
        return self.call("run", *command, timeout_s=timeout_s)

    def attached(self, *command: str) -> int:
        """The exit code of a command that runs inside, with this process's output."""
        return subprocess.run(
            [str(self._script), "run", *command], env=self._environment, check=False
        ).returncode

    def images(self) -> set[str]:
        """Names of the images that its nodes have."""
        return set(self.run("ctr", "-n", "k8s.io", "images", "ls", "-q").split())

    def pack(self, folder: Path, image: str, *arguments: str) -> None:
        self.call("pack", str(folder), image, *arguments, timeout_s=1200)


def lacking(folder: Path) -> str:
    """Why there can be no cluster here, and what to do about it; empty when there can."""
    if not (folder / "cluster").is_file():
        return f"{folder} has no cluster script: name its folder with CLUSTER=…"
    if sys.version_info[:2] != (3, 11):
        return "the image has Debian's Python 3.11, and this is another: `make setup PYTHON=…`"
    if os.geteuid():
        return "it needs root: namespaces, cgroups and mounts are made"
    packages = [package for name, package in PROGRAMS.items() if not shutil.which(name)]
    if not CNI.exists():
        packages.append("containernetworking-plugins")
    if packages:
        return f"programs are missing: apt-get install {' '.join(packages)}"
    refused = subprocess.run(
        ["unshare", "--net", "--mount", "true"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces here: {refused.stderr.strip()}" if refused.returncode else ""
