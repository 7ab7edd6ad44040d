"""The official OpenAI SDK, unchanged, over a real socket: each failure is its own exception."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import uvicorn

from serve_app.domain import Route
from serve_app.errors import Overloaded, Unavailable, UnprocessableDocument
from tests.fixtures import FixedKnowledge, FixedRouter, House, ScriptedModel, decision

pytestmark = pytest.mark.usefixtures("clean_environment")

KEYS = [
    {
        "name": name,
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
        "scopes": scopes,
    }
    for name, scopes in (("reader", ["chat"]), ("writer", ["ingest"]))
]
DOCUMENTS = {"documents": [{"id": "a", "text": "b"}]}


@contextlib.asynccontextmanager
async def sdk_of(house: House, key: str = "reader") -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of the SDK whose server is the gateway's application under uvicorn."""
    # Listening before the server runs: a request that is early waits in the socket's queue.
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(house.app, log_level="critical", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    client = openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=20.0
    )
    try:
        yield client
    finally:
        await client.close()
        server.should_exit = True
        await serving


async def ask(client: openai.AsyncOpenAI, **body: object) -> None:
    request = {"model": "trivium/expert", "messages": [{"role": "user", "content": "hi"}], **body}
    await client.post("/chat/completions", cast_to=object, body=request)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"temperature": 9}, openai.BadRequestError),
        ({"surprise": 1}, openai.BadRequestError),
        ({"model": "gpt-none"}, openai.NotFoundError),
    ],
)
async def test_mistakes_of_a_caller(
    body: dict[str, object], expected: type[openai.APIStatusError]
) -> None:
    async with sdk_of(House()) as client:
        with pytest.raises(expected) as caught:
            await ask(client, **body)
    assert caught.value.request_id
    assert caught.value.param


async def test_keys() -> None:
    house = House(gateway={"api_keys": KEYS})
    async with sdk_of(house, key="stranger") as client:
        with pytest.raises(openai.AuthenticationError):
            await ask(client)
    async with sdk_of(house, key="writer") as client:
        with pytest.raises(openai.PermissionDeniedError):
            await ask(client)


async def test_document_that_does_not_fit() -> None:
    knowledge = FixedKnowledge(UnprocessableDocument("too long", param="documents[0].text"))
    async with sdk_of(House(knowledge=knowledge)) as client:
        with pytest.raises(openai.UnprocessableEntityError):
            await client.put("/collections/default/documents", cast_to=object, body=DOCUMENTS)


async def test_full_house() -> None:
    full = Overloaded("full", retry_after_s=1.0)
    house = House(expert=ScriptedModel(full), frontier=ScriptedModel(full))
    async with sdk_of(house) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client)
    assert caught.value.response.headers["retry-after"] == "1"


@pytest.mark.parametrize("failure", [Unavailable("down"), RuntimeError("secret insides")])
async def test_our_own_failures_hide_their_insides(failure: Exception) -> None:
    house = House(expert=ScriptedModel(failure), frontier=ScriptedModel(failure))
    async with sdk_of(house) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(client)
    assert "insides" not in caught.value.message


async def test_failure_inside_a_stream() -> None:
    house = House(expert=ScriptedModel("Hel", Unavailable("down")))
    async with sdk_of(house) as client:
        stream = await client.chat.completions.create(
            model="trivium/expert", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass


HANGS = "hangs"  # until the deadline has passed
BROKE = Unavailable("the connection broke", retry_after_s=2.0)
BOUGHT: list[tuple[tuple[Any, ...], int, bool]] = [
    ((HANGS,), 503, False),
    ((HANGS,), 503, True),
    (("Deep", HANGS), 503, False),
    ((BROKE,), 503, False),
    ((BROKE,), 503, True),
    ((ZeroDivisionError(),), 500, False),
    ((ZeroDivisionError(),), 500, True),
]


@pytest.mark.parametrize(("script", "status", "stream"), BOUGHT)
async def test_what_may_have_been_paid_for_is_not_sent_again_by_an_sdk(
    script: tuple[Any, ...], status: int, stream: bool
) -> None:
    house = House(
        router=FixedRouter(decision(Route.FRONTIER)),
        frontier=ScriptedModel(*(asyncio.Event() if step is HANGS else step for step in script)),
        gateway={"request_timeout_s": 0.5},
        fallbacks={},
    )
    async with sdk_of(house, "none") as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(client.with_options(max_retries=2), model="trivium/auto", stream=stream)
    assert caught.value.status_code == status
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(house.frontier.asked) == 1


async def test_what_was_not_paid_for_is_sent_again() -> None:
    full = Overloaded("the provider is full", retry_after_s=0.01)
    house = House(
        router=FixedRouter(decision(Route.FRONTIER)), frontier=ScriptedModel(full), fallbacks={}
    )
    async with sdk_of(house, "none") as client:
        with pytest.raises(openai.RateLimitError):
            await ask(client.with_options(max_retries=2), model="trivium/auto")
    assert len(house.frontier.asked) == 3
