"""An application is exchanged while it answers."""

from __future__ import annotations

import asyncio

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from serve_app.gateway.exchange import Exchange


class Generation:
    """Answers with its name, once it may."""

    def __init__(self, name: str) -> None:
        self.may_answer, self.asked, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.retired = False

        async def answer(_: Request) -> PlainTextResponse:
            self.asked.set()
            await self.may_answer.wait()
            return PlainTextResponse(name)

        self.app = Starlette(routes=[Route("/", answer)])

    def retire(self) -> None:
        self.retired = True

    async def close(self) -> None:
        self.closed.set()


async def test_requests_end_with_the_application_they_began_with() -> None:
    first, second, third = Generation("first"), Generation("second"), Generation("third")
    exchange = Exchange()
    exchange.put(first)
    transport = httpx.ASGITransport(exchange)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        early = asyncio.create_task(http.get("/"))
        await first.asked.wait()
        exchange.put(second)
        assert (first.retired, first.closed.is_set()) == (True, False)
        second.may_answer.set()
        assert (await http.get("/")).text == "second"
        first.may_answer.set()
        assert (await early).text == "first"
        await first.closed.wait()
        # One that nobody uses is let go at once.
        exchange.put(third)
        await second.closed.wait()
    assert not third.closed.is_set()


async def test_the_last_one_is_closed_with_its_replica() -> None:
    only = Generation("only")
    exchange = Exchange()
    exchange.put(only)
    told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    said: list[str] = []

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        said.append(message["type"])

    for kind in ("startup", "shutdown"):
        told.put_nowait({"type": f"lifespan.{kind}"})
    await exchange({"type": "lifespan"}, told.get, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert only.retired
    assert only.closed.is_set()
