"""Providers against a real server on this machine."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

import pytest

from serve_app.domain import Delta, Generation, Message, Usage
from serve_app.errors import (
    DeadlineExceeded,
    FrontierNotConfigured,
    FrontierRefused,
    InvalidRequest,
    Overloaded,
    TriviumError,
    Unavailable,
)
from serve_app.frontier import providers
from serve_app.frontier.providers import Provider, provider
from serve_app.settings import UpstreamSettings
from tests.frontier.requests import Kind
from tests.frontier.wire import (
    ASK,
    BOTH,
    KEY,
    OPENAI,
    PART,
    RESPONSES,
    SECRETS,
    Handler,
    Wire,
    answering,
    chunked,
    client,
    deaf,
    events,
    leave,
    receive,
    serving,
    start,
    streamed,
    until_left,
)


async def failing(
    kind: Kind, handler: Handler, silence_s: float = 5.0
) -> tuple[list[Delta], TriviumError]:
    """What came before the error, and the error; neither it nor its message leaks anything."""
    seen: list[Delta] = []

    async def read(model: Provider) -> None:
        async for delta in model.generate(ASK):
            seen.append(delta)  # noqa: PERF401

    async with serving(kind, handler, silence_s) as model:
        with pytest.raises(TriviumError) as caught:
            await read(model)
    error = caught.value
    assert not any(secret in str(error.envelope()) for secret in SECRETS)
    return seen, error


@BOTH
async def test_answer_is_streamed_with_usage_and_reason(kind: Kind) -> None:
    async with serving(kind, answering(kind)) as model:
        deltas = [delta async for delta in model.generate(ASK)]
    assert "".join(delta.text for delta in deltas) == "Héllo"
    assert len([delta for delta in deltas if delta.text]) == 2
    assert [d.finish_reason for d in deltas if d.finish_reason] == ["length"]
    assert [d.usage for d in deltas if d.usage] == [Usage(20, 5, 8)]


@pytest.mark.parametrize("wrong", ["many", [1], {"prompt_tokens": 20}, {"input_tokens": "x"}])
@pytest.mark.parametrize("kind", ["openai", "openai-responses"])
async def test_a_count_that_is_none_does_not_break_a_whole_answer(kind: Kind, wrong: Any) -> None:
    ended = {"choices": [], "usage": wrong}
    if kind == "openai-responses":
        ended = {**RESPONSES[-1], "response": {**RESPONSES[-1]["response"], "usage": wrong}}
    told = [*(OPENAI if kind == "openai" else RESPONSES)[:-1], ended]
    async with serving(kind, answering(kind, None, streamed(kind, told))) as model:
        deltas = [delta async for delta in model.generate(ASK)]
    assert "".join(delta.text for delta in deltas) == "Héllo"
    assert [delta.usage for delta in deltas if delta.usage] == []


async def test_details_that_are_none_leave_the_count_as_it_is() -> None:
    counts = {"prompt_tokens": 20, "completion_tokens": 5, "prompt_tokens_details": [1]}
    told = [*OPENAI[:-1], {"choices": [], "usage": counts}]
    async with serving("openai", answering("openai", None, streamed("openai", told))) as model:
        deltas = [delta async for delta in model.generate(ASK)]
    assert deltas[-1].usage == Usage(20, 5)


async def test_openai_gets_the_generation_as_it_is() -> None:
    wire = Wire()
    options = {"temperature": 0.5, "stop": ["END"], "seed": 7}
    async with serving("openai", answering("openai", wire)) as model:
        async for _ in model.generate(Generation(ASK.messages, 32, options)):
            pass
    assert wire.head.startswith("post /v1/chat/completions ")
    assert f"authorization: bearer {KEY}" in wire.head
    assert wire.body == {
        "model": "the-model",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ],
        "max_completion_tokens": 32,
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }


async def test_anthropic_gets_the_generation_in_its_own_words() -> None:
    wire = Wire()
    options = {"temperature": 0.5, "stop": ["END"]}
    turns = (*ASK.messages, Message("developer", "Smile."))
    async with serving("anthropic", answering("anthropic", wire)) as model:
        async for _ in model.generate(Generation(turns, 32, options)):
            pass
    assert wire.head.startswith("post /v1/messages ")
    # Under which header is the SDK's business: it has changed before.
    assert KEY in wire.head
    assert wire.body["system"] == "Be brief.\n\nSmile."
    assert wire.body["messages"] == [{"role": "user", "content": "hi"}]
    assert (wire.body["max_tokens"], wire.body["temperature"]) == (32, 0.5)
    assert wire.body["stop_sequences"] == ["END"]


@BOTH
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequest),
        (401, FrontierRefused),
        (403, FrontierRefused),
        (413, InvalidRequest),
        (429, Overloaded),
        (500, Unavailable),
        (529, Unavailable),
    ],
)
async def test_status_is_translated_without_the_providers_text(
    kind: Kind, status: int, expected: type[TriviumError]
) -> None:
    attempts = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        await receive(reader)
        start(writer, f"{status} No", "application/json")
        text = f"Incorrect API key {KEY} (sk-***) of org-acme-account"
        error = {"type": "error", "error": {"type": "x", "message": text, "code": "y"}}
        writer.write(chunked(json.dumps(error).encode()) + chunked(b""))
        await writer.drain()

    seen, error = await failing(kind, handler)
    assert (seen, type(error)) == ([], expected)
    assert attempts == 1
    if status == 429:
        assert error.retry_after_s


@BOTH
async def test_model_that_the_provider_does_not_know_is_not_the_callers_fault(kind: Kind) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        start(writer, "404 Not Found", "application/json")
        writer.write(chunked(b'{"error": {"message": "no such model"}}') + chunked(b""))
        await writer.drain()

    _, error = await failing(kind, handler)
    assert error.status == 503


@BOTH
async def test_nobody_listening_is_unavailable(kind: Kind) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(Unavailable):
            await anext(aiter(client(kind, f"http://127.0.0.1:{port}").generate(ASK)))


@BOTH
async def test_silence_before_the_answer_is_bounded(kind: Kind) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        await reader.read()

    seen, error = await failing(kind, handler, silence_s=0.2)
    assert (seen, type(error)) == ([], DeadlineExceeded)


SIGNS: dict[Kind, bytes] = {
    "openai": b": keep-alive\n\n",
    "anthropic": b'event: ping\ndata: {"type": "ping"}\n\n',
    "openai-responses": events("openai-responses", 1),
}


@BOTH
async def test_a_model_that_thinks_aloud_is_not_silent(kind: Kind) -> None:
    """Pings, comments and events without text count as signs of life."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        start(writer)
        for _ in range(8):
            writer.write(chunked(SIGNS[kind]))
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(chunked(events(kind)) + chunked(b""))
        await writer.drain()

    async with serving(kind, handler, silence_s=0.5) as model:
        assert "".join([delta.text async for delta in model.generate(ASK)]) == "Héllo"


@BOTH
async def test_a_host_that_cannot_be_connected_to_is_not_waited_for_like_a_thinker(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "CONNECT_S", 0.2)
    with deaf() as url:
        async with asyncio.timeout(10):
            with pytest.raises(Unavailable):
                await anext(aiter(client(kind, url, silence_s=60).generate(ASK)))


@BOTH
async def test_silence_inside_the_answer_is_bounded(kind: Kind) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        start(writer)
        writer.write(chunked(events(kind, PART[kind])))
        await reader.read()

    seen, error = await failing(kind, handler, silence_s=2)
    assert "".join(delta.text for delta in seen) == "Hé"
    assert isinstance(error, Unavailable)


@BOTH
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
async def test_connection_that_breaks_inside_the_answer_is_unavailable(
    kind: Kind, reset: bool
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        start(writer)
        writer.write(chunked(events(kind, PART[kind])))
        await writer.drain()
        if reset:
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()

    _, error = await failing(kind, handler)
    assert isinstance(error, Unavailable)


@BOTH
async def test_stream_that_ends_early_is_no_whole_answer(kind: Kind) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        start(writer)
        writer.write(chunked(events(kind, PART[kind])) + chunked(b""))
        await writer.drain()

    seen, error = await failing(kind, handler)
    assert "".join(delta.text for delta in seen) == "Hé"
    assert isinstance(error, Unavailable)


@BOTH
@pytest.mark.parametrize(
    ("content_type", "garbage"),
    [
        ("text/event-stream", b"data: {not json\n\n"),
        ("text/event-stream", b"data: [1, 2]\n\n"),
        ("text/event-stream", b'event: message_start\ndata: {"type": "message_start"}\n\n'),
        ("text/event-stream", b"event: content_block_delta\ndata: {}\n\n"),
        ("text/event-stream", b'data: {"choices": [{"delta": {"content": 5}}]}\n\n'),
        ("text/event-stream", b"data: \xff\xfe\n\n"),
        ("text/html", b"<html>Please log in</html>"),
        ("application/json", b'{"hello": "world"}'),
    ],
    ids=[
        "no json",
        "list",
        "half event",
        "empty event",
        "a number",
        "no text",
        "html",
        "other json",
    ],
)
async def test_garbage_is_unavailable(kind: Kind, content_type: str, garbage: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        start(writer, kind=content_type)
        writer.write(chunked(garbage) + chunked(b""))
        await writer.drain()

    seen, error = await failing(kind, handler)
    assert "".join(delta.text for delta in seen) == ""
    assert isinstance(error, Unavailable)


@BOTH
async def test_error_inside_the_stream_is_translated(kind: Kind) -> None:
    problem = {"type": "overloaded_error", "message": "org-acme-account is busy"}

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        start(writer)
        failed = json.dumps({"type": "error", "error": problem})
        prefix = "event: error\n" if kind == "anthropic" else ""
        event = f"{prefix}data: {failed}\n\n".encode()
        writer.write(chunked(events(kind, PART[kind])) + chunked(event) + chunked(b""))
        await writer.drain()

    seen, error = await failing(kind, handler)
    assert "".join(delta.text for delta in seen) == "Hé"
    assert isinstance(error, Unavailable | Overloaded)
    assert "200" not in error.message


@BOTH
async def test_leaving_closes_the_connection(kind: Kind) -> None:
    left = asyncio.Event()
    async with serving(kind, until_left(kind, left)) as model:
        await leave(model.generate(ASK), left)


async def test_without_a_provider_the_road_says_so() -> None:
    with pytest.raises(FrontierNotConfigured):
        await anext(aiter(provider(UpstreamSettings(), 5.0).generate(ASK)))


async def test_responses_gets_its_own_shape_and_stores_nothing() -> None:
    wire = Wire()
    schema = {"name": "sum", "schema": {"type": "object"}, "strict": True}
    options = {
        "temperature": 0.5,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    asked = Generation(ASK.messages, 32, options, call_id="call-1")
    async with serving("openai-responses", answering("openai-responses", wire)) as model:
        await anext(aiter(model.generate(asked)))
    assert "post /v1/responses " in wire.head
    assert "x-client-request-id: call-1" in wire.head
    assert wire.body == {
        "model": "the-model",
        "input": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ],
        "max_output_tokens": 32,
        "stream": True,
        "store": False,
        "temperature": 0.5,
        "text": {"format": {"type": "json_schema", **schema}},
    }
