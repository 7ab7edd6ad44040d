"""Deltas that share a hop: nothing is lost, and none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.coalescing import coalesce
from serve_app.domain import Delta, ToolCall, Usage
from serve_app.errors import InternalError

USAGES = st.builds(Usage, st.integers(0, 99), st.integers(0, 99))
CALLS = st.builds(
    ToolCall, st.integers(0, 1), st.just(""), st.just(""), st.text("{}:1", max_size=3)
)
DELTAS = st.builds(
    Delta,
    st.text(max_size=5),
    st.none() | st.sampled_from(["stop", "length"]),
    st.none() | USAGES,
    tool_calls=st.lists(CALLS, max_size=2).map(tuple),
)


def arguments(deltas: list[Delta], index: int) -> str:
    """Of one of the answer's calls, as a client puts them together."""
    return "".join(c.arguments for d in deltas for c in d.tool_calls if c.index == index)


async def source(deltas: list[Delta], pauses: list[bool]) -> AsyncIterator[Delta]:
    for i, delta in enumerate(deltas):
        if pauses and pauses[i % len(pauses)]:
            await asyncio.sleep(0)
        yield delta


@settings(max_examples=40, deadline=None)
@given(
    st.lists(DELTAS, max_size=12),
    st.lists(st.booleans(), max_size=4),
    st.lists(st.booleans(), max_size=4),
)
def test_merging_keeps_all_text_all_calls_and_the_last_usage_and_reason(
    deltas: list[Delta], pauses: list[bool], delays: list[bool]
) -> None:
    async def collect() -> list[Delta]:
        merged = []
        async for delta in coalesce(source(deltas, pauses)):
            merged.append(delta)
            if delays and delays[len(merged) % len(delays)]:
                await asyncio.sleep(0)
        return merged

    merged = asyncio.run(collect())
    assert len(merged) <= len(deltas)
    assert "".join(d.text for d in merged) == "".join(d.text for d in deltas)
    for index in (0, 1):
        assert arguments(merged, index) == arguments(deltas, index)
    for field in ("usage", "finish_reason"):
        given_ = [v for d in deltas if (v := getattr(d, field)) is not None]
        kept = [v for d in merged if (v := getattr(d, field)) is not None]
        assert kept[-1:] == given_[-1:]


async def test_tokens_do_not_wait_for_each_other() -> None:
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[Delta]:
        yield Delta("first")
        await go_on.wait()
        yield Delta("second")

    merged = coalesce(slow())
    assert (await anext(merged)).text == "first"
    go_on.set()
    assert (await anext(merged)).text == "second"


async def test_text_before_an_error_is_delivered_first() -> None:
    async def broken() -> AsyncIterator[Delta]:
        yield Delta("a")
        yield Delta("b")
        raise InternalError("broke")

    merged = coalesce(broken())
    assert (await anext(merged)).text == "ab"
    with pytest.raises(InternalError, match="broke"):
        await anext(merged)


async def test_source_that_is_cancelled_does_not_hang_its_reader() -> None:
    async def cancelled() -> AsyncIterator[Delta]:
        yield Delta("a")
        raise asyncio.CancelledError

    async def read() -> None:
        async for _ in coalesce(cancelled()):
            pass

    done, pending = await asyncio.wait([asyncio.create_task(read())], timeout=2)
    for task in pending:
        task.cancel()
    assert done


async def test_leaving_closes_the_source() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[Delta]:
        try:
            while True:
                yield Delta("x")
                await asyncio.sleep(0)
        finally:
            closed.set()

    merged: Any = coalesce(endless())
    await anext(merged)
    await merged.aclose()
    assert closed.is_set()
