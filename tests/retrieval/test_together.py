from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from serve_app.retrieval.together import Together


class Panic(BaseException):
    """As PyO3 raises one."""


class Gate:
    """An embedding model that answers when it may; keeps what it was asked at once."""

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        self.batches.append(list(texts))
        self.entered.set()
        assert self.open.wait(10)
        if "bad" in texts:
            raise ValueError("no such word")
        if "panic" in texts:
            raise Panic
        return [[float(len(text))] for text in texts]


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def started(gate: Gate, together: Together, *texts: str) -> list[asyncio.Task[list[float]]]:
    """The first text is with the model, the others wait."""
    tasks = [asyncio.create_task(together(texts[0]))]
    await asyncio.to_thread(gate.entered.wait, 10)
    tasks += [asyncio.create_task(together(text)) for text in texts[1:]]
    await asyncio.sleep(0)  # each of them has asked
    return tasks


async def test_what_waits_is_embedded_in_one_batch_and_everyone_gets_their_own(gate: Gate) -> None:
    tasks = await started(gate, Together(gate), "a", "bb", "ccc", "dddd")
    gate.open.set()
    assert await asyncio.gather(*tasks) == [[1.0], [2.0], [3.0], [4.0]]
    assert gate.batches == [["a"], ["bb", "ccc", "dddd"]]


@pytest.mark.parametrize(("word", "kind"), [("bad", ValueError), ("panic", RuntimeError)])
async def test_a_failure_reaches_its_batch_alone(
    gate: Gate, word: str, kind: type[Exception]
) -> None:
    together = Together(gate)
    tasks = await started(gate, together, "a", word, "bb")
    gate.open.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert first == [1.0]
    assert [type(error) for error in others] == [kind] * 2
    assert await together("ccc") == [3.0]


async def test_who_leaves_takes_nobody_along(gate: Gate) -> None:
    tasks = await started(gate, Together(gate), "a", "bb", "ccc")
    tasks[0].cancel()
    tasks[1].cancel()
    gate.open.set()
    left = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in left[:2]] == [asyncio.CancelledError] * 2
    assert left[2] == [3.0]
    assert gate.batches == [["a"], ["ccc"]]
