"""The official OpenAI SDK, unchanged, over a real socket: each failure is its own exception."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import openai
import pydantic
import pytest
import uvicorn
from openai.types.chat import ChatCompletionUserMessageParam

from serve_app.domain import Delta, Lost, Route, Usage
from serve_app.errors import (
    FrontierNotConfigured,
    Overloaded,
    Unavailable,
    UnprocessableDocument,
)
from serve_app.orchestration.knowledge import NOT_FOUND
from tests.fixtures import (
    QUOTES,
    FixedKnowledge,
    FixedRouter,
    House,
    ScriptedModel,
    chunk,
    decision,
)

pytestmark = pytest.mark.usefixtures("clean_environment")

KEYS = [
    {
        "name": name,
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
        "scopes": scopes,
    }
    for name, scopes in (("reader", ["chat"]), ("writer", ["ingest"]))
]
TURNS: list[ChatCompletionUserMessageParam] = [
    {"role": "user", "content": "Within how many days may customers return goods?"}
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
LOST = Delta(lost=(Lost(again=False),))
BROKE = Unavailable("the connection broke", retry_after_s=2.0)
BOUGHT: list[tuple[tuple[Any, ...], int, bool]] = [
    ((HANGS,), 503, False),
    ((HANGS,), 503, True),
    (("Deep", HANGS), 503, False),
    ((LOST, BROKE), 503, False),
    ((LOST, BROKE), 503, True),
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


class Day(pydantic.BaseModel):
    days: int


REFUSES = ScriptedModel(
    Delta(refusal="I will ", usage=Usage(10, 2)),
    Delta(refusal="not.", finish_reason="stop", usage=Usage(10, 4)),
)


async def test_refusal_is_one_for_the_sdk_and_no_success() -> None:
    house = House(expert=REFUSES)
    async with sdk_of(house) as client:
        answer = await client.chat.completions.parse(
            model="trivium/expert", messages=TURNS, response_format=Day
        )
        stream = await client.chat.completions.create(
            model="trivium/expert", messages=TURNS, stream=True
        )
        pieces = [chunk.choices[0].delta async for chunk in stream]
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.refusal) == (None, "I will not.")
    assert (choice.message.parsed, choice.finish_reason) == (None, "stop")
    assert "".join(piece.refusal or "" for piece in pieces) == "I will not."
    assert not any(piece.content for piece in pieces)
    assert house.metrics.outcomes == ["refused", "refused"]


async def test_facts_by_a_schema_are_parsed_or_refused() -> None:
    found = chunk("Customers may return goods within 30 days.", "returns")
    house = House(
        knowledge=FixedKnowledge([found]), expert=ScriptedModel('{"days": 30}'), roles=QUOTES
    )
    async with sdk_of(house) as client:
        for expected, refusal in ((Day(days=30), None), (None, NOT_FOUND)):
            answer = await client.chat.completions.parse(
                model="trivium/knowledge", messages=TURNS, response_format=Day
            )
            (choice,) = answer.choices
            assert (choice.message.parsed, choice.message.refusal) == (expected, refusal)
            house.knowledge.results = [[]]
    assert house.metrics.outcomes == ["ok", "ok"]


async def test_what_was_adapted_is_said() -> None:
    adapting = ScriptedModel(Delta("Hm.", adapted=("seed",), usage=Usage(10, 1)))
    house = House(frontier=adapting)
    async with sdk_of(house) as client:
        for stream in (False, True):
            raw = await client.chat.completions.with_raw_response.create(
                model="trivium/frontier", messages=TURNS, seed=1, max_tokens=9999, stream=stream
            )
            assert raw.headers["x-trivium-adapted"] == "max_completion_tokens, seed"


async def test_hints_and_effort_are_never_refused() -> None:
    house = House()
    async with sdk_of(house) as client:
        for road, left in (
            ("expert", "prompt_cache_key, service_tier, store, reasoning_effort"),
            ("frontier", "prompt_cache_key, service_tier, store"),
        ):
            raw = await client.chat.completions.with_raw_response.create(
                model=f"trivium/{road}",
                messages=TURNS,
                store=True,
                service_tier="flex",
                prompt_cache_key="k",
                reasoning_effort="high",
            )
            assert raw.headers["x-trivium-adapted"] == left
    (asked,) = house.frontier.asked
    assert asked.options["reasoning_effort"] == "high"
    assert "reasoning_effort" not in house.expert.asked[-1].options


async def test_facts_that_cannot_be_looked_up_are_503_with_a_time_to_ask_again() -> None:
    house = House(
        knowledge=FixedKnowledge(Unavailable("down")),
        frontier=ScriptedModel(FrontierNotConfigured("none")),
    )
    async with sdk_of(house) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(client, model="trivium/knowledge")
    assert caught.value.status_code == 503
    assert caught.value.code == "knowledge_unavailable"
    assert caught.value.response.headers["retry-after"] == "5"
    assert house.expert.asked == []
