"""`trivium adapters promote` and `rollback` say what the running stack says."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from serve_app.domain import Release
from serve_app.errors import AdapterUnusable
from serve_app.expert.adapters import Registry
from serve_app.expert.serving import Adapter, Adapters
from tests.cli.conftest import Outcome, Run, Serve
from tests.expert.releases import release
from tests.fixtures import House

pytestmark = pytest.mark.usefixtures("clean_environment")

DAMAGED = Release("house", 3)


class Stack:
    """A gateway that follows a registry, and the commands beside it."""

    def __init__(self, run: Run, serve: Serve, root: Path) -> None:
        self.root, self._run = root, run
        for version in (1, 2, 3):
            release(root, "house", version)
        self.adapters = Adapters(Registry(str(root)), self._prepare, poll_s=0.01)
        house = House()
        house.adapters = cast(Any, self.adapters)
        self.url = serve(house)

    async def _prepare(self, adapter: Adapter) -> None:
        if adapter.release == DAMAGED:
            raise AdapterUnusable("its weights are damaged")

    def __call__(self, *arguments: str, url: str = "", wait: str = "10") -> Outcome:
        asked = ("--url", url or self.url, "--wait", wait)
        return self._run("adapters", *arguments, "--registry", str(self.root), *asked)


@pytest.fixture
def stack(run: Run, serve: Serve, tmp_path: Path) -> Iterator[Stack]:
    made = Stack(run, serve, tmp_path / "registry")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    watching = asyncio.run_coroutine_threadsafe(made.adapters.watch(), loop)
    yield made
    watching.cancel()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def promote(version: int) -> tuple[str, ...]:
    return ("promote", "house", str(version), "--tolerance", "1")


def test_promotion_that_the_stack_took_over_serves(stack: Stack) -> None:
    done = stack(*promote(1))
    assert (done.code, "house version 1 serves (before: the base)" in done.out) == (0, True)
    told = json.loads(stack(*promote(2), "--json").out)
    assert (told["from"], told["to"], told["served"], told["reason"]) == (1, 2, True, "")
    listed = stack.adapters.catalogue()
    assert listed == [{"name": "house", "version": 2, "refused": None}]


def test_promotion_that_the_stack_refuses_is_no_success(stack: Stack) -> None:
    stack(*promote(1))
    done = stack(*promote(3))
    assert done.code == 1
    assert "house version 3 is promoted, and the stack does not follow (before: 1)" in done.out
    assert "its weights are damaged" in done.out
    assert "serves trivium/expert:house@1" in done.out
    back = stack("rollback", "house")
    assert (back.code, "house version 1 serves (before: 3)" in back.out) == (0, True)


def test_first_promotion_can_be_taken_back(stack: Stack) -> None:
    assert stack(*promote(3)).code == 1
    back = stack("rollback", "house")
    assert (back.code, "house no version serves (before: 3)" in back.out) == (0, True)
    assert stack.adapters.catalogue() == []
    assert stack("rollback", "house").code == 2


def test_promotion_without_a_stack_claims_nothing(stack: Stack) -> None:
    done = stack(*promote(1), url="http://127.0.0.1:1")
    assert done.code == 0
    assert "serves" not in done.out
    assert "house version 1 is promoted" in done.out
    assert "no stack answers at http://127.0.0.1:1" in done.out


def test_stack_that_reads_another_registry_is_told_apart(stack: Stack, tmp_path: Path) -> None:
    stack.root = tmp_path / "other"
    release(stack.root, "house", 1)
    done = stack(*promote(1), "--json", wait="0.2")
    assert done.code == 1
    assert "expert.adapters" in json.loads(done.out)["reason"]
