from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import pytest
import uvicorn

from serve_app.cli import main
from tests.fixtures import House


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]
Serve = Callable[[House], str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `trivium` with arguments in this process."""
    # Wide enough that no sentence is wrapped.
    monkeypatch.setenv("COLUMNS", "300")

    def trivium(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["trivium", *arguments])
        code = 0
        try:
            with mock.patch.dict(os.environ):  # which `main` adds to
                main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return trivium


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve a house on a free port; returns its address."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(house: House) -> str:
        server = uvicorn.Server(
            uvicorn.Config(house.app, port=0, log_level="error", lifespan="off")
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)
