from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway import sse


@given(
    st.text(
        st.sampled_from("\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e\r\n")
        | st.characters(exclude_categories=["Cs"])
    )
)
def test_event_is_one_line_whatever_the_text(text: str) -> None:
    event = sse.event({"content": text})
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert b"\n" not in event[:-2]
    assert b"\r" not in event
    # Also for readers that end a line wherever Unicode does.
    assert [line for line in event.decode().splitlines() if line] == [event.decode()[:-2]]
    assert json.loads(event.removeprefix(b"data: ")) == {"content": text}


async def test_leaving_closes_the_events() -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[bytes]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    kept = sse.kept_alive(b"head", events(), idle_s=5)
    assert isinstance(kept, AsyncGenerator)
    assert [await anext(kept), await anext(kept)] == [b"head", b"one"]
    await kept.aclose()
    assert closed.is_set()


async def test_failure_of_the_events_is_passed_on() -> None:
    async def events() -> AsyncGenerator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async for _ in sse.kept_alive(b"head", events(), idle_s=5):
            pass
