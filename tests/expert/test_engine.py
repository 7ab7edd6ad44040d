from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.domain import Delta, Generation, Message, Usage
from serve_app.errors import ContextLengthExceeded, InternalError, InvalidRequest
from serve_app.expert.engine import chat_request, coalesce, engine_error, parse


def event(**fields: Any) -> str:
    return f"data: {json.dumps(fields)}"


def choice(delta: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "finish_reason": finish}]


def test_text_and_running_usage_are_read() -> None:
    line = event(
        choices=choice({"content": "Hé"}),
        usage={
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    )
    assert parse(line) == Delta("Hé", None, Usage(9, 2, 4))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("stop", "stop"), ("length", "length"), ("abort", "stop"), (None, None)],
)
def test_finish_reason_is_translated(theirs: str | None, ours: str | None) -> None:
    delta = parse(event(choices=choice({}, theirs), usage=None))
    assert delta is not None
    assert delta.finish_reason == ours


def test_usage_alone_is_read() -> None:
    line = event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": None})
    assert parse(line) == Delta(usage=Usage(9, 0))


@pytest.mark.parametrize("line", ["", "\n", "data: [DONE]", "data: [DONE]\n\n", "data: "])
def test_lines_without_news_are_skipped(line: str) -> None:
    assert parse(line) is None


def test_error_event_is_raised() -> None:
    with pytest.raises(InvalidRequest, match="bad schema"):
        parse(event(error={"message": "bad schema", "code": 400, "param": "response_format"}))


@pytest.mark.parametrize("code", [500, 503, None, 0])
def test_failure_of_the_engine_hides_its_text(code: int | None) -> None:
    error = engine_error({"message": "CUDA error at /home/me/engine.py", "code": code})
    assert isinstance(error, InternalError)
    assert "CUDA" not in error.message


def test_error_code_that_is_a_word_is_understood() -> None:
    error = engine_error({"message": "oops", "code": "internal_error"})
    assert isinstance(error, InternalError)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 9000.",
        "The decoder prompt (length 9000) is longer than the maximum model length of 4096.",
    ],
)
def test_prompt_beyond_the_context_has_its_own_error(message: str) -> None:
    error = engine_error({"message": message, "code": 400})
    assert isinstance(error, ContextLengthExceeded)
    assert error.param == "messages"


def test_request_asks_for_running_usage_and_knows_no_developer() -> None:
    turns = (Message("developer", "d"), Message("user", "u"), Message("assistant", "a"))
    body = chat_request(Generation(turns, 7, {"temperature": 0.5}), "m")
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant"]
    assert (body["max_tokens"], body["temperature"], body["stream"]) == (7, 0.5, True)
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


USAGES = st.builds(Usage, st.integers(0, 99), st.integers(0, 99))
DELTAS = st.builds(
    Delta, st.text(max_size=5), st.none() | st.sampled_from(["stop", "length"]), st.none() | USAGES
)


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
def test_merging_keeps_all_text_and_the_last_usage_and_reason(
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
