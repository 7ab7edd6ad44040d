"""Streams, with the ASGI application driven by hand where a client's behaviour matters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.types import Message as AsgiMessage

from serve_app.domain import Delta, Generation, RequestContext, Route, Usage
from serve_app.errors import FrontierNotConfigured, InvalidRequest, Unavailable
from tests.fixtures import FixedKnowledge, FixedRouter, House, ScriptedModel, chunk, decision

pytestmark = pytest.mark.usefixtures("clean_environment")

TURNS = [{"role": "user", "content": "What is the return window?"}]
DONE = "[DONE]"


async def stream(house: House, **fields: Any) -> tuple[httpx.Response, list[Any]]:
    """The response and its events: parsed JSON, or `[DONE]`."""
    body = {"messages": TURNS, "stream": True, **fields}
    transport = httpx.ASGITransport(house.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        response = await client.post("/v1/chat/completions", json=body)
    events = []
    assert response.text.endswith("\n\n")
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        assert block.startswith("data: ")
        assert "\n" not in block
        data = block.removeprefix("data: ")
        events.append(data if data == DONE else json.loads(data))
    return response, events


def text_of(events: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for event in events
        if event != DONE
        for choice in event.get("choices", [])
    )


async def test_stream_has_openais_shape() -> None:
    house = House(expert=ScriptedModel("Hé\n\nllo", " 🎉 data: x"))
    response, events = await stream(house)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *chunks, done = events
    assert done == DONE
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(events) == "Hé\n\nllo 🎉 data: x"
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0] == {
        "index": 0,
        "delta": {},
        "finish_reason": "stop",
        "logprobs": None,
    }
    assert {c["id"] for c in chunks} == {f"chatcmpl-{response.headers['x-request-id']}"}
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in c for c in chunks)
    assert house.metrics.outcomes == ["ok"]


async def test_headers_tell_the_decision() -> None:
    response, _ = await stream(House())
    assert response.headers["x-trivium-route"] == "expert"
    assert response.headers["x-trivium-confidence"] == "0.800"
    assert response.headers["x-trivium-router-ms"] == "1.50"
    assert "x-trivium-degraded" not in response.headers


async def test_usage_comes_last_when_it_is_asked_for() -> None:
    _, events = await stream(House(), stream_options={"include_usage": True})
    usage, done = events[-2:]
    assert done == DONE
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 12
    assert usage["usage"]["cost"] > 0
    _, events = await stream(House(), stream_options={"include_usage": False})
    assert not any("usage" in event for event in events)


async def test_answer_without_text_is_still_a_whole_stream() -> None:
    _, events = await stream(House(expert=ScriptedModel()))
    assert text_of(events) == ""
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1] == DONE


async def test_citations_come_with_the_last_chunk() -> None:
    source = chunk("Customers may return goods within 30 days.", "returns")
    house = House(
        router=FixedRouter(decision(Route.KNOWLEDGE)),
        knowledge=FixedKnowledge([source]),
        expert=ScriptedModel("Goods may be returned within 30 days."),
    )
    _, events = await stream(house)
    (annotation,) = events[-2]["choices"][0]["delta"]["annotations"]
    assert annotation["url_citation"]["url"] == "/v1/collections/default/documents/returns"


async def test_failure_before_the_first_byte_takes_another_road_and_says_so() -> None:
    house = House(expert=ScriptedModel(Unavailable("died")))
    response, events = await stream(house)
    assert text_of(events) == "Deep thought."
    assert response.headers["x-trivium-degraded"] == "expert-service-unavailable"
    house = House(frontier=ScriptedModel(FrontierNotConfigured("none")))
    response, events = await stream(house, model="trivium/frontier")
    assert text_of(events) == "Hello there."
    assert response.headers["x-trivium-degraded"] == "frontier-not-configured"


@pytest.mark.parametrize(
    ("error", "code"),
    [(Unavailable("died"), "service_unavailable"), (OSError("/srv/secret"), "internal_error")],
)
async def test_failure_after_the_first_byte_ends_the_stream(error: Exception, code: str) -> None:
    house = House(expert=ScriptedModel("Hel", error))
    response, events = await stream(house)
    assert response.status_code == 200
    assert text_of(events) == "Hel"
    assert set(events[-1]) == {"error"}
    assert set(events[-1]["error"]) == {"message", "type", "param", "code"}
    assert events[-1]["error"]["code"] == code
    assert DONE not in events
    assert "secret" not in response.text
    assert house.frontier.asked == []
    assert house.metrics.outcomes == ["failed"]
    assert [call.usage for call in house.metrics.calls] == [Usage(10, 1)]


async def test_deadline_ends_the_stream_with_an_error() -> None:
    house = House(expert=ScriptedModel("Hel", asyncio.Event()), gateway={"request_timeout_s": 3})
    _, events = await stream(house)
    assert events[-1]["error"]["code"] == "deadline_exceeded"
    assert house.expert.running == 0


class Client:
    """One request, by hand: what was received is in `sent`; `leave` closes the connection."""

    def __init__(self, house: House, app: FastAPI | None = None) -> None:
        body = {"messages": TURNS, "stream": True}
        self._incoming: asyncio.Queue[AsgiMessage] = asyncio.Queue()
        self._incoming.put_nowait(
            {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        )
        self.sent: list[AsgiMessage] = []
        self._changed = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"host", b"gateway")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self.task = asyncio.create_task(self._run(app or house.app, scope))

    async def _run(self, app: Any, scope: dict[str, Any]) -> None:
        await app(scope, self._incoming.get, self._receive)

    async def _receive(self, message: AsgiMessage) -> None:
        self.sent.append(message)
        self._changed.set()

    @property
    def received(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(10):
            while text not in self.received:
                self._changed.clear()
                await self._changed.wait()

    async def leave(self) -> None:
        """Close the connection, and wait until the application has noticed."""
        self._incoming.put_nowait({"type": "http.disconnect"})
        try:
            await asyncio.wait_for(self.task, 2)
        except TimeoutError:
            pytest.fail("the application goes on although nobody listens")


async def test_first_text_leaves_before_the_answer_is_finished() -> None:
    go_on = asyncio.Event()
    client = Client(House(expert=ScriptedModel("first", go_on, "second")))
    await client.until(b"first")
    assert b"second" not in client.received
    go_on.set()
    await client.until(b"data: [DONE]\n\n")
    await client.task


async def test_headers_wait_for_the_first_text() -> None:
    go_on = asyncio.Event()
    house = House(expert=ScriptedModel(go_on, Unavailable("died")))
    client = Client(house)
    await house.expert.started.wait()
    assert client.sent == []
    go_on.set()
    await client.until(b"Deep")
    assert (b"x-trivium-degraded", b"expert-service-unavailable") in client.sent[0]["headers"]
    await client.task


async def test_headers_do_not_wait_for_a_silent_model_and_the_last_chunk_tells_the_rest() -> None:
    go_on = asyncio.Event()
    house = House(expert=ScriptedModel(go_on, Unavailable("died")))
    client = Client(house)
    await client.until(b": keep-alive\n\n")
    assert client.sent[0]["status"] == 200
    early = {name: value for name, value in client.sent[0]["headers"] if b"trivium" in name}
    assert early[b"x-trivium-route"] == b"expert"
    assert b"x-trivium-degraded" not in early
    go_on.set()  # before any text another road may still take over
    await client.until(b"data: [DONE]\n\n")
    await client.task
    events = [
        json.loads(line.removeprefix("data: "))
        for line in client.received.decode().split("\n")
        if line.startswith("data: {")
    ]
    assert text_of(events) == "Deep thought."
    told = events[-1]["trivium"]
    assert (told["route"], told["degraded"]) == ("expert", "expert-service-unavailable")
    assert told["model"] == "large"


async def test_what_could_not_be_done_behind_the_first_sentence_is_told_in_the_last_chunk() -> None:
    """Its headers have left by then."""
    go_on = asyncio.Event()

    class Reading(ScriptedModel):
        async def generate(
            self, context: RequestContext, generation: Generation
        ) -> AsyncGenerator[Delta]:
            if "response_format" in generation.options:
                raise Unavailable("it repairs nothing")
            yield Delta("Goods may be returned within 30 days. Opened", usage=Usage(10, 8))
            await go_on.wait()
            yield Delta(" goods may be returned.", finish_reason="stop", usage=Usage(10, 12))

    sources = [
        chunk("Goods may be returned within 30 days."),
        chunk("Opened goods may not be returned.", "opened"),
    ]
    client = Client(
        House(
            router=FixedRouter(decision(Route.KNOWLEDGE)),
            knowledge=FixedKnowledge(sources),
            expert=Reading(),
        )
    )
    await client.until(b"30 days.")
    assert not any(name == b"x-trivium-degraded" for name, _ in client.sent[0]["headers"])
    go_on.set()
    await client.until(b"data: [DONE]\n\n")
    await client.task
    *_, last = [
        json.loads(line.removeprefix("data: "))
        for line in client.received.decode().split("\n")
        if line.startswith("data: {")
    ]
    assert last["trivium"]["degraded"] == "repair-expert-service-unavailable"


async def test_an_error_after_early_headers_is_an_event() -> None:
    go_on = asyncio.Event()
    no = InvalidRequest("no", param="messages")
    house = House(expert=ScriptedModel(go_on, no), frontier=ScriptedModel(no))
    client = Client(house)
    await client.until(b": keep-alive\n\n")
    go_on.set()
    await client.until(b'"error"')
    await client.task
    assert client.sent[0]["status"] == 200
    assert b'"param":"messages"' in client.received
    assert b"[DONE]" not in client.received
    assert house.metrics.outcomes == ["failed"]


async def test_a_client_that_leaves_a_silent_model_after_early_headers_stops_it() -> None:
    house = House(expert=ScriptedModel(asyncio.Event()))
    client = Client(house)
    await client.until(b": keep-alive\n\n")
    await client.leave()
    assert house.expert.running == 0
    assert house.metrics.outcomes == ["disconnected"]


async def test_over_a_socket_a_silent_provider_has_headers_and_comments_within_a_second() -> None:
    never = asyncio.Event()
    house = House(frontier=ScriptedModel(never, "at last"), gateway={"keep_alive_s": 0.2})
    async with served(house) as url, httpx.AsyncClient(base_url=url) as client:
        body = {"model": "trivium/frontier", "messages": TURNS, "stream": True}
        began = time.monotonic()
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert time.monotonic() - began < 1.5  # a machine that is busy may add something
            assert response.status_code == 200
            assert response.headers["x-trivium-route"] == "frontier"
            lines = response.aiter_lines()
            assert await anext(lines) == ": keep-alive"
            assert time.monotonic() - began < 1.5  # a machine that is busy may add something
            assert [await anext(lines) for _ in range(3)] == ["", ": keep-alive", ""]
            never.set()
            assert any([DONE in line async for line in lines])


@contextlib.asynccontextmanager
async def served(house: House) -> AsyncIterator[str]:
    """The gateway behind a socket of this machine."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        config = uvicorn.Config(house.app, lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([door]))
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def test_silence_is_filled_with_comments() -> None:
    go_on = asyncio.Event()
    house = House(expert=ScriptedModel("first", go_on, "second"), gateway={"keep_alive_s": 0.02})
    client = Client(house)
    await client.until(b": keep-alive\n\n: keep-alive\n\n")
    go_on.set()
    await client.until(b"data: [DONE]\n\n")
    await client.task
    assert client.received.index(b"first") < client.received.index(b": keep-alive")


async def test_client_that_leaves_stops_the_model_and_is_counted() -> None:
    house = House(
        expert=ScriptedModel("first", asyncio.Event()), gateway={"max_concurrent_requests": 1}
    )
    client = Client(house)
    await client.until(b"first")
    assert house.expert.running == 1
    await client.leave()
    assert house.expert.running == 0
    assert house.metrics.outcomes == ["disconnected"]
    assert [call.usage for call in house.metrics.calls] == [Usage(10, 1)]
    assert b"[DONE]" not in client.received


async def test_client_that_leaves_gives_its_place_back() -> None:
    house = House(
        expert=ScriptedModel("first", asyncio.Event()), gateway={"max_concurrent_requests": 1}
    )
    app = house.app
    client = Client(house, app)
    await client.until(b"first")
    await client.leave()
    house.expert.script = ("second",)
    client = Client(house, app)
    await client.until(b"second")
    await client.task


async def test_client_that_leaves_before_the_first_text_stops_the_model() -> None:
    house = House(expert=ScriptedModel(asyncio.Event()))
    client = Client(house)
    await house.expert.started.wait()
    await client.leave()
    assert house.expert.running == 0
    assert house.metrics.outcomes == ["disconnected"]
