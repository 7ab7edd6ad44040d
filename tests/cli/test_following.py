"""`trivium ingest --follow`, the command itself, while its server is killed and comes back."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import httpx
import psutil
import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(600)

ROWS = 240
FIRST = 40
_LOOK_AGAIN_S = 0.1


def row(number: int) -> str:
    return json.dumps({"id": f"order-{number:03}", "text": f"Order {number} left the warehouse."})


class Server:
    """The knowledge server on one port and one file, through its deaths."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = str(probe.getsockname()[1])
        self._file = str(folder / "milvus.db")
        self._log = folder / "server.log"
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "tests.cli.knowledge_server", self._port, self._file]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        while True:
            assert self.process.poll() is None, self._log.read_text()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/healthz").status_code == 200:
                    return
            time.sleep(_LOOK_AGAIN_S)

    def kill(self) -> None:
        root = psutil.Process(self.process.pid)
        for each in [root, *root.children(recursive=True)]:
            each.kill()
        self.process.wait()

    def documents(self, collection: str) -> list[str]:
        """Ids, one for each row that stands first in its document: one twice would be seen."""
        url = f"{self.url}/v1/collections/{collection}/documents?limit=1000"
        answer = httpx.get(url, timeout=120)
        return [each["id"] for each in answer.json()["data"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


class Follower:
    """`trivium ingest --follow` under way; what it prints can be waited for."""

    def __init__(self, source: str, url: str, collection: str) -> None:
        options = ["--collection", collection, "--url", url, "--json"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serve_app.cli", "ingest", "--follow", source, *options],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "300"},
            stdin=subprocess.PIPE if source == "-" else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._printed: queue.Queue[str] = queue.Queue()
        for stream in (self.process.stdout, self.process.stderr):
            threading.Thread(target=self._collect, args=(stream,), daemon=True).start()

    def _collect(self, stream: IO[str]) -> None:
        for line in stream:
            self._printed.put(line)

    def wait_for(self, text: str) -> str:
        """The next line that holds a text."""
        while text not in (line := self._printed.get(timeout=120)):
            assert "Traceback" not in line
        return line


@pytest.fixture
def follow() -> Iterator[Callable[..., Follower]]:
    started: list[Follower] = []

    def start(source: str, url: str, collection: str = "feed") -> Follower:
        started.append(Follower(source, url, collection))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def test_nothing_is_lost_or_twice_when_the_server_dies_and_comes_back(
    server: Server, follow: Callable[..., Follower], tmp_path: Path
) -> None:
    growing = tmp_path / "feed.jsonl"
    growing.touch()
    by_file = follow(str(growing), server.url, "by-file")
    by_pipe = follow("-", server.url, "by-pipe")
    given_up = follow("-", server.url, "given-up")
    pipe, other_pipe = by_pipe.process.stdin, given_up.process.stdin
    assert pipe
    assert other_pipe
    with growing.open("a") as file:

        def write(numbers: range) -> None:
            for each in (file, pipe, other_pipe):
                each.writelines(row(number) + "\n" for number in numbers)
                each.flush()

        write(range(FIRST))
        for follower in (by_file, by_pipe, given_up):
            follower.wait_for('"documents"')
        write(range(FIRST, ROWS // 2))
        server.kill()  # with these on their way
        write(range(ROWS // 2, ROWS))
    pipe.close()
    for follower in (by_file, by_pipe, given_up):
        follower.wait_for("waiting")
    given_up.process.send_signal(signal.SIGINT)
    assert "from id order-" in given_up.wait_for("not sent: ")
    assert given_up.process.wait(120) == 130
    server.start()
    for follower in (by_file, by_pipe):
        follower.wait_for("going on")
    assert by_pipe.process.wait(120) == 0
    wanted = [f"order-{number:03}" for number in range(ROWS)]
    assert server.documents("by-pipe") == wanted
    while len(server.documents("by-file")) < ROWS:
        assert by_file.process.poll() is None
        time.sleep(_LOOK_AGAIN_S)
    assert server.documents("by-file") == wanted
    by_file.process.send_signal(signal.SIGINT)
    assert by_file.process.wait(120) == 130


def test_bad_rows_are_named_and_the_others_sent(
    server: Server, follow: Callable[..., Follower], tmp_path: Path
) -> None:
    infinite = '{"id": "n", "text": "t", "metadata": {"n": 1e400}}'
    rows = [row(1), "{", '{"text": "no id"}', '{"id": "blank", "text": " "}', infinite, row(2)]
    growing = tmp_path / "feed.jsonl"
    growing.write_bytes("\n".join([*rows, "caf\xe9", row(3), ""]).encode("latin-1"))
    follower = follow(str(growing), server.url)
    # Which batch a row is in, and so when it is named, is chance.
    named = "".join(follower.wait_for("skipped") for _ in range(5))
    for problem in ("not a row: {", "no id", "not a row: caf", "blank: ", "1e400"):
        assert problem in named
    while server.documents("feed") != ["order-001", "order-002", "order-003"]:
        assert follower.process.poll() is None
        time.sleep(_LOOK_AGAIN_S)


def test_server_that_is_not_there_is_told_at_once(follow: Callable[..., Follower]) -> None:
    follower = follow("-", "http://127.0.0.1:1")
    assert follower.process.wait(120) == 1
    assert "trivium up" in follower.wait_for("error:")
