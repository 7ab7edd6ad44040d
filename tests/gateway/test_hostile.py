"""The command that asks ordinary questions under hostile loads."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from loadtest import hostile
from serve_app.ledger.keys import has_checksum
from tests.fixtures import House, ScriptedModel

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def house() -> House:
    return House(expert=ScriptedModel("Hello."))


@pytest.fixture
def url(house: House) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(house.app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_it_asks_in_peace_and_under_each_load(url: str) -> None:
    command = [sys.executable, "-m", "loadtest.hostile", "--url", url, "--json"]
    arguments = ["--seconds", "1", "--callers", "2", "--rate", "5"]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    rows = json.loads(done.stdout)
    assert [row["load"] for row in rows] == ["quiet", "masking", "junk keys", "/v1/route"]
    assert all(row["asked"] > 0 and row["failed"] == {} for row in rows)
    assert done.returncode == (0 if hostile.bearable(rows) else 1)


def test_questions_that_fail_or_wait_twice_as_long_fail_it() -> None:
    quiet = {"failed": {}, "slower": 1.0}
    assert hostile.bearable([quiet, {"failed": {}, "slower": 2.0}])
    assert not hostile.bearable([quiet, {"failed": {}, "slower": 2.1}])
    assert not hostile.bearable([quiet, {"failed": {"503": 1}, "slower": 1.0}])


def test_what_is_not_answered_is_counted(house: House, url: str) -> None:
    house.expert.script = (ZeroDivisionError(),)
    row = asyncio.run(hostile.ordinary(url, "", 1, 0.2))
    assert set(row["failed"]) == {"500"}


def test_no_other_machine_is_attacked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.hostile", "--url", "http://192.0.2.1:8000"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "not of this machine" in done.stderr


def test_the_loads_are_what_they_are_called() -> None:
    (message,) = hostile.masking().body["messages"]
    assert message["content"].count("@") == 4000
    sent = hostile.junk_key().headers
    assert sent is not None
    assert has_checksum(sent["authorization"].removeprefix("Bearer "))
    assert hostile.decisions().path == "/v1/route"
