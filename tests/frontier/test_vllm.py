"""vLLM's own endpoints as the outside model, over a wire that breaks in every way.

A request goes all the way: the OpenAI SDK, the gateway's application, the provider's SDK, a proxy
that breaks what passes through it, and a real vLLM server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as Path_

from loadtest import servers
from serve_app.domain import Delta, Generation, RequestContext
from serve_app.frontier.upstreams import Upstreams
from serve_app.ledger import tables
from serve_app.settings import load
from serve_app.settings.frontier import FrontierSettings
from tests.fixtures import FRONTIER, House
from tests.frontier.requests import Kind
from tests.gateway.test_sdk import sdk_of

ROOT = Path(__file__).parents[2]
KINDS = pytest.mark.parametrize("kind", ["openai", "anthropic", "openai-responses"])
ASK: Any = [{"role": "user", "content": "Name three colours."}]
TEXT = re.compile(rb'"content":"[^"]|text_delta|response\.output_text\.delta')
COUNTED = re.compile(rb'"((?:prompt|completion|input|output)_tokens)": ?\d+')

Events = AsyncIterator[bytes]
Fault = Callable[[Events], AsyncGenerator[bytes]]

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.timeout(480),  # the first test waits for the server
]


@pytest.fixture(scope="module")
def vllm(base_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a vLLM server whose model has the name of one in the price table."""
    settings = load(ROOT / "configs" / "local.yaml")
    expert = settings.expert.model_copy(update={"model_source": base_model})
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = settings.model_copy(update={"expert": expert})
    with servers.vllm(settings, port, log, FRONTIER) as url:
        # Its first answer takes as long as many others.
        body = {"model": FRONTIER, "messages": ASK, "max_tokens": 2}
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120).raise_for_status()
        yield url


# --- what a wire may do -------------------------------------------------------------------------


async def whole(events: Events) -> AsyncGenerator[bytes]:
    async for event in events:
        yield event


async def cut_at_once(events: Events) -> AsyncGenerator[bytes]:
    raise ConnectionAbortedError
    yield b""  # makes this an async generator


async def cut(events: Events) -> AsyncGenerator[bytes]:
    async for event in upto_text(events):
        yield event
    raise ConnectionAbortedError


async def ended_early(events: Events) -> AsyncGenerator[bytes]:
    async for event in upto_text(events):
        yield event


async def silent(events: Events) -> AsyncGenerator[bytes]:
    async for event in upto_text(events):
        yield event
    await asyncio.Event().wait()


async def no_json(events: Events) -> AsyncGenerator[bytes]:
    async for event in upto_text(events):
        yield event
    yield b"data: <html>Bad gateway</html>\n\n"


async def half_json(events: Events) -> AsyncGenerator[bytes]:
    async for event in upto_text(events):
        yield event
    yield event[: len(event) // 2]


async def an_error_in_200(events: Events) -> AsyncGenerator[bytes]:
    error = {"type": "error", "error": {"type": "api_error", "message": "no", "code": 500}}
    yield f"event: error\ndata: {json.dumps(error)}\n\n".encode()


async def endless(events: Events) -> AsyncGenerator[bytes]:
    async for event in upto_text(events):
        yield event
    while True:
        await asyncio.sleep(0)  # a turn for everybody else in this process
        yield event


TOO_MANY = 10**12


async def counts_too_much(events: Events) -> AsyncGenerator[bytes]:
    async for event in events:
        yield COUNTED.sub(rb'"\1": %d' % TOO_MANY, event)


async def counts_below_nothing(events: Events) -> AsyncGenerator[bytes]:
    async for event in events:
        yield COUNTED.sub(rb'"\1": -7', event)


BREAKING: list[Fault] = [
    cut_at_once,
    cut,
    ended_early,
    silent,
    no_json,
    half_json,
    an_error_in_200,
]


async def upto_text(events: Events) -> AsyncGenerator[bytes]:
    """The events up to the first that says something."""
    async for event in events:
        yield event
        if TEXT.search(event):
            return


class Wire:
    """A proxy in front of a server, with a fault."""

    def __init__(self, upstream: str, fault: Fault) -> None:
        self._upstream = upstream
        self._fault = fault
        self.closed = asyncio.Event()

    async def pass_on(self, request: Request) -> Response:
        body = await request.body()
        client = httpx.AsyncClient(base_url=self._upstream, timeout=60)
        kind = {"content-type": "application/json"}
        asked = client.build_request("POST", request.url.path, content=body, headers=kind)
        answer = await client.send(asked, stream=True)

        async def relayed() -> AsyncGenerator[bytes]:
            try:
                async with contextlib.aclosing(self._fault(_events(answer))) as events:
                    async for event in events:
                        yield event
            finally:
                await client.aclose()
                self.closed.set()

        return StreamingResponse(
            relayed(), answer.status_code, media_type=answer.headers["content-type"]
        )


async def _events(answer: httpx.Response) -> AsyncGenerator[bytes]:
    rest = b""
    async for data in answer.aiter_bytes():
        *whole_ones, rest = (rest + data).split(b"\n\n")
        for event in whole_ones:
            yield event + b"\n\n"


class Outside:
    """The road's upstreams, as the graph asks them."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams

    async def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncGenerator[Delta]:
        async with contextlib.aclosing(
            self._upstreams.generate(generation, context.deadline)
        ) as deltas:
            async for delta in deltas:
                yield delta


@contextlib.asynccontextmanager
async def asking(
    kind: Kind, upstream: str, fault: Fault = whole
) -> AsyncIterator[tuple[openai.AsyncOpenAI, House, Wire]]:
    """The SDK of a gateway whose frontier is reached over a faulty wire."""
    wire = Wire(upstream, fault)
    listening = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Path_("/{path:path}", wire.pass_on, methods=["POST"])])
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    suffix = "" if kind == "anthropic" else "/v1"
    settings = FrontierSettings.model_validate(
        {
            "provider": kind,
            "model": FRONTIER,
            "base_url": f"http://127.0.0.1:{listening.getsockname()[1]}{suffix}",
            "api_key": "none",
            "silence_s": 8 if fault is silent else 30,
            "retries": 0,
        }
    )
    stand_in: Any = Outside(Upstreams(settings))
    house = House(frontier=stand_in)
    try:
        async with sdk_of(house) as client:
            yield client, house, wire
    finally:
        server.should_exit = True
        await serving


async def ask(client: openai.AsyncOpenAI, **more: Any) -> tuple[Any, Any]:
    """The answer of `trivium/frontier`, and its headers."""
    raw = await client.chat.completions.with_raw_response.create(
        model="trivium/frontier", messages=ASK, max_completion_tokens=24, temperature=0, **more
    )
    return raw.parse(), raw.headers


async def read(stream: Any, said: list[str]) -> None:
    async for chunk in stream:
        said.append(chunk.choices[0].delta.content or "")  # noqa: PERF401  # kept when it breaks


async def booked(house: House) -> list[Any]:
    """The ledger's rows of calls, when all of them are closed."""
    while True:
        rows = await house.database.read(lambda it: it.execute(select(tables.calls)).all())
        if all(row.status != "open" for row in rows):
            return list(rows)
        await asyncio.sleep(0.01)


# --- and what comes of it -----------------------------------------------------------------------


@KINDS
async def test_an_answer_is_counted_as_the_server_counts_it(kind: Kind, vllm: str) -> None:
    async with asking(kind, vllm) as (client, house, _):
        answer, headers = await ask(client)
        (row,) = await booked(house)
    assert answer.choices[0].message.content
    assert "x-trivium-degraded" not in headers
    assert (row.status, row.estimated, row.model) == ("ok", False, FRONTIER)
    assert row.provider_id
    assert answer.usage.completion_tokens == row.completion_tokens <= 24
    assert row.prompt_tokens > 10
    assert row.cost_nanos == row.prompt_tokens * 2000 + row.completion_tokens * 8000


@KINDS
async def test_a_schema_is_kept(kind: Kind, vllm: str) -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["count"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "counted", "schema": schema}}
    async with asking(kind, vllm) as (client, _, _):
        answer, _ = await ask(client, response_format=form)
    assert set(json.loads(answer.choices[0].message.content)) == {"count"}


@KINDS
@pytest.mark.parametrize("fault", BREAKING)
async def test_another_road_answers_what_breaks(kind: Kind, fault: Fault, vllm: str) -> None:
    async with asking(kind, vllm, fault) as (client, house, _):
        answer, headers = await ask(client)
        frontier, *_ = await booked(house)
    assert answer.choices[0].message.content == "Hello there."
    assert headers["x-trivium-degraded"].startswith("frontier-")
    assert frontier.status == "failed"
    assert frontier.cost_nanos <= frontier.held_nanos


@KINDS
@pytest.mark.parametrize("fault", [cut, silent, no_json, half_json])
async def test_a_stream_that_breaks_says_so(kind: Kind, fault: Fault, vllm: str) -> None:
    async with asking(kind, vllm, fault) as (client, house, _):
        stream = await client.chat.completions.create(
            model="trivium/frontier", messages=ASK, max_completion_tokens=24, stream=True
        )
        said: list[str] = []
        with pytest.raises(openai.APIError):
            await read(stream, said)
        (row,) = await booked(house)
    assert "".join(said)
    assert row.status == "failed"
    # What was sent is paid for, although nobody has counted it.
    assert row.estimated
    assert 0 < row.cost_nanos <= row.held_nanos


@KINDS
async def test_an_endless_stream_is_ended(kind: Kind, vllm: str) -> None:
    async with asking(kind, vllm, endless) as (client, house, wire):
        answer, _ = await ask(client)
        await asyncio.wait_for(wire.closed.wait(), 20)
        (row,) = await booked(house)
    assert answer.choices[0].finish_reason == "length"
    assert row.completion_tokens <= 24
    assert row.cost_nanos <= row.held_nanos


@KINDS
async def test_what_is_claimed_is_booked_also_above_what_was_held(kind: Kind, vllm: str) -> None:
    async with asking(kind, vllm, counts_too_much) as (client, house, _):
        answer, _ = await ask(client)
        (row,) = await booked(house)
    assert answer.choices[0].message.content
    assert row.completion_tokens == TOO_MANY
    assert row.cost_nanos > row.held_nanos


@KINDS
async def test_a_count_below_nothing_is_no_claim(kind: Kind, vllm: str) -> None:
    async with asking(kind, vllm, counts_below_nothing) as (client, house, _):
        answer, _ = await ask(client)
        (row,) = await booked(house)
    assert answer.choices[0].message.content
    assert 0 <= row.cost_nanos <= row.held_nanos
    assert 0 <= row.completion_tokens <= 24


@KINDS
async def test_a_server_that_is_not_there(kind: Kind) -> None:
    async with asking(kind, "http://127.0.0.1:9") as (client, _, _):
        answer, headers = await ask(client)
    assert answer.choices[0].message.content == "Hello there."
    assert headers["x-trivium-degraded"] == "frontier-service-unavailable"
