"""A real Prometheus: Debian's binaries, unpacked beside the project when the machine has none."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.integration.conftest import free_port

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".trivium" / "peers" / "prometheus"
_START_S = 30.0


def binary(name: str) -> str:
    """Path of `prometheus` or `promtool`. Nothing is installed, and no service starts."""
    if found := shutil.which(name):
        return found
    if not (HOME / name).exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg")):
            pytest.skip(f"{name} is not there, and this is no Debian to take it from")
        with tempfile.TemporaryDirectory() as folder:
            command = ["apt-get", "download", "-q", "prometheus"]
            subprocess.run(command, cwd=folder, check=True, timeout=300)
            (package,) = Path(folder).glob("prometheus_*.deb")
            subprocess.run(["dpkg", "-x", package, folder], check=True, timeout=60)
            HOME.mkdir(parents=True, exist_ok=True)
            for each in (Path(folder) / "usr" / "bin").iterdir():
                shutil.move(each, HOME / each.name)
    return str(HOME / name)


def promtool(*arguments: str | Path) -> str:
    """What it prints; fails the test when it finds fault."""
    done = subprocess.run(
        [binary("promtool"), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server that is running."""

    url: str

    def names(self) -> set[str]:
        """Of every metric that it has ever scraped."""
        return set(self.get("label/__name__/values"))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        answer.raise_for_status()
        return answer.json()["data"]


@contextlib.contextmanager
def scraping(targets: Sequence[str], rules: Path, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes some addresses, `host:port`, and evaluates a file of rules."""
    port = free_port()
    config: Mapping[str, Any] = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": list(targets)}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_ready(url, process, folder / "prometheus.log")
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(20)


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/-/ready").status_code == 200:
                return
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
        time.sleep(0.1)
