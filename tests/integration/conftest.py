"""The real stack, started once for all integration tests by the command a user types."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.integration.collector import Collector

ROOT = Path(__file__).parents[2]
STATE = ROOT / ".trivium" / "test"
PLANTED = "planted-secret-5d1f"


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack and what belongs to it."""

    url: str
    process: subprocess.Popen[bytes]
    collector: Collector
    environment: dict[str, str]

    def openai(self) -> openai.OpenAI:
        """The official SDK, unchanged but for its base URL."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120.0)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The replica processes of a deployment."""
        app = "expert" if deployment == "Expert" else "trivium"
        return self.processes(f"ray::ServeReplica:{app}:{deployment}")

    def processes(self, title: str) -> list[psutil.Process]:
        """The stack's processes that call themselves so."""
        tree = psutil.Process(self.process.pid).children(recursive=True)
        found = []
        for process in tree:
            try:
                if any(title in part for part in process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def cli(
        self, *args: str, stdin: str | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a `trivium` command against this stack; `more` are variables of its environment."""
        return subprocess.run(
            [sys.executable, "-m", "serve_app.cli", *args],
            env={
                **self.environment,
                **more,
                "TRIVIUM_URL": self.url,
                "NO_COLOR": "1",
                "COLUMNS": "200",
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            input=stdin,
            timeout=120,
            check=False,
        )


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many, each another: they are held until all are chosen."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """`trivium up --demo`, from nothing to ready; at the end Ctrl-C, and nothing may be left."""
    collector = Collector()
    STATE.mkdir(parents=True, exist_ok=True)
    models = STATE / "models"
    if not models.exists():
        # Models are prepared once and shared with the stack a developer runs by hand.
        (ROOT / ".trivium" / "models").mkdir(parents=True, exist_ok=True)
        models.symlink_to(ROOT / ".trivium" / "models")
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "TRIVIUM_STATE_DIR": str(STATE),
        "TRIVIUM_EXPERT__LORA__POLL_S": "0.5",
        # Of no use here: it is there to be searched for where it must not be.
        "TRIVIUM_LEDGER__PASSWORD": PLANTED,
        "TRIVIUM_FRONTIER__API_KEY": PLANTED,
        # Far above what the tests spend: it is there to be seen in the metrics.
        "TRIVIUM_LEDGER__LIMITS": '[{"of": "house", "per": "month", "usd": 1000}]',
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
    }
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "serve_app.cli", "up", "--demo"]
    with (STATE / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", url.rpartition(":")[2]],
            env=environment,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    running = Stack(url, process, collector, environment)
    try:
        _wait_for_announcement(process)
        yield running
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        finally:
            left = [each for each in family if alive(each)]
            for each in left:
                each.kill()
            process.kill()
            collector.close()
    assert process.returncode == 0
    assert left == [], f"Ctrl-C left processes behind: {left}"


def _wait_for_announcement(process: subprocess.Popen[bytes]) -> None:
    log = STATE / "up.log"
    deadline = time.monotonic() + 600
    while b"Trivium answers at" not in log.read_bytes():
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.5)
