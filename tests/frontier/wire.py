"""A real server on this machine that speaks, or fails to speak, the providers' wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from serve_app.domain import Generation, Message
from serve_app.frontier.providers import Provider, provider
from serve_app.settings import UpstreamSettings
from tests.frontier.requests import Kind, Take, Wrong, wrong_with

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BOTH = pytest.mark.parametrize("kind", ["openai", "anthropic", "openai-responses"])

KEY = "sk-secret-key-123"
SECRETS = (KEY, "org-acme-account", "sk-***")
ASK = Generation((Message("system", "Be brief."), Message("user", "hi")), 32)

OPENAI: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"index": 0, "delta": {"content": "Hé"}}]},
    {"choices": [{"index": 0, "delta": {"content": "llo"}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "total_tokens": 25,
            "prompt_tokens_details": {"cached_tokens": 8},
        },
    },
]
ANTHROPIC: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "x",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 10,
                "cache_read_input_tokens": 8,
                "cache_creation_input_tokens": 2,
                "output_tokens": 1,
            },
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hé"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "llo"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
        "usage": {"output_tokens": 5},
    },
    {"type": "message_stop"},
]


_RESPONSE = {"id": "r", "object": "response", "created_at": 1, "model": "x", "output": []}
RESPONSES: list[dict[str, Any]] = [
    {"type": "response.created", "response": {**_RESPONSE, "status": "in_progress"}},
    {"type": "response.output_text.delta", "delta": "Hé", "item_id": "i", "output_index": 0},
    {"type": "response.output_text.delta", "delta": "llo", "item_id": "i", "output_index": 0},
    {
        "type": "response.incomplete",
        "response": {
            **_RESPONSE,
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "usage": {
                "input_tokens": 20,
                "input_tokens_details": {"cached_tokens": 8},
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 25,
            },
        },
    },
]


def streamed(kind: Kind, told: list[dict[str, Any]], *, whole: bool = True) -> bytes:
    """Events on the wire, and what ends them."""
    if kind != "openai":
        made = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in told]
    else:
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "x"}
        made = [f"data: {json.dumps({**head, **e})}\n\n" for e in told]
        made += ["data: [DONE]\n\n"] if whole else []
    return "".join(made).encode()


def events(kind: Kind, upto: int | None = None) -> bytes:
    """The stream of a good answer, or its beginning."""
    told = {"openai": OPENAI, "anthropic": ANTHROPIC, "openai-responses": RESPONSES}[kind]
    return streamed(kind, told[:upto], whole=upto is None)


# Up to here both streams have said "Hé" and are not finished.
PART = {"openai": 2, "anthropic": 4, "openai-responses": 2}


class Wire:
    """What a provider received, and whether it would have taken it."""

    def __init__(self) -> None:
        self.head = ""
        self.body: dict[str, Any] = {}


async def receive(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:")[1].split("\r\n")[0])
    return head, json.loads(await reader.readexactly(length))


def refuse(writer: asyncio.StreamWriter, kind: Kind, wrong: Wrong) -> None:
    """Answer 400 as the provider would."""
    error: dict[str, Any] = {"type": "invalid_request_error", "message": wrong.message}
    if kind != "anthropic":
        error |= {"param": wrong.param, "code": "invalid_value"}
    body = json.dumps({"type": "error", "error": error}).encode()
    head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def start(
    writer: asyncio.StreamWriter, status: str = "200 OK", kind: str = "text/event-stream"
) -> None:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(head.encode())


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def until_left(kind: Kind, left: asyncio.Event) -> Handler:
    """Says "Hé", waits for the caller to close the connection, and then sets the event."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        start(writer)
        writer.write(chunked(events(kind, PART[kind])))
        await reader.read()
        left.set()

    return handler


async def leave(answer: Any, left: asyncio.Event) -> None:
    """Close an answer after its first text; returns when the server has noticed."""
    while not (await anext(answer)).text:
        pass
    await answer.aclose()
    await asyncio.wait_for(left.wait(), 5)


@contextlib.asynccontextmanager
async def serving(kind: Kind, handler: Handler, silence_s: float = 5.0) -> AsyncIterator[Provider]:
    """A provider client whose server answers by `handler`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await handler(reader, writer)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    suffix = "" if kind == "anthropic" else "/v1"
    try:
        yield client(kind, f"http://127.0.0.1:{port}{suffix}", silence_s)
    finally:
        server.close()


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """The address of a host that lets nobody connect, and does not say so."""
    with socket.socket() as full, contextlib.ExitStack() as opened:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)  # the queue is full: whoever comes next gets no answer
        yield f"http://127.0.0.1:{address[1]}"


def client(kind: Kind, url: str, silence_s: float = 5.0) -> Provider:
    upstream = {"provider": kind, "model": "the-model", "base_url": url, "api_key": KEY}
    return provider(UpstreamSettings.model_validate(upstream), silence_s)


def answering(
    kind: Kind, wire: Wire | None = None, answer: bytes | None = None, *takes: Take
) -> Handler:
    """Answers what the provider would take; `takes` are what a model of its own adds."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await receive(reader)
        if wire:
            wire.head, wire.body = head, body
        if wrong := wrong_with(kind, body, *takes):
            refuse(writer, kind, wrong)
            await writer.drain()
            return
        start(writer)
        writer.write(chunked(answer or events(kind)) + chunked(b""))
        await writer.drain()

    return handler


class Recorder:
    """A provider that answers everything well, and keeps every byte that it received."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.url = ""
        self.received: list[bytes] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._handling: set[asyncio.Task[Any]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def listening(cls, kind: Kind) -> AsyncIterator[Recorder]:
        recorder = cls(kind)
        server = await asyncio.start_server(recorder._handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        recorder.url = f"http://127.0.0.1:{port}{'' if kind == 'anthropic' else '/v1'}"
        try:
            yield recorder
        finally:
            server.close()
            for each in tuple(recorder._open):
                each.close()
            await asyncio.gather(*recorder._handling)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._handling.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self.received.append(head + await reader.readexactly(length))
                start(writer)
                writer.write(chunked(events(self.kind)) + chunked(b""))
                await writer.drain()
        writer.close()
        self._open.discard(writer)
