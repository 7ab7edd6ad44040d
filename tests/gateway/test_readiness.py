from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest

from serve_app.domain import Route
from serve_app.errors import FrontierNotConfigured, FrontierRefused, InvalidRequest, Unavailable
from serve_app.gateway.readiness import Readiness
from tests.fixtures import FixedKnowledge, FixedRouter, House, ScriptedModel, chunk, decision

DOWN = Unavailable("starting")


async def settled(readiness: Readiness) -> list[str]:
    """What is still waited for when all have answered, or the first has failed."""
    failed = asyncio.Event()
    log = logging.getLogger("serve_app.gateway.readiness")
    watch = logging.Handler()
    watch.emit = lambda record: failed.set() if "not ready" in record.msg else None  # type: ignore[method-assign]
    log.addHandler(watch)
    log.setLevel(logging.INFO)
    warming, failing = asyncio.create_task(readiness.warm_up()), asyncio.create_task(failed.wait())
    try:
        await asyncio.wait([warming, failing], return_when=asyncio.FIRST_COMPLETED)
    finally:
        warming.cancel()
        failing.cancel()
        log.removeHandler(watch)
    return readiness.waiting


def ready(house: House) -> Readiness:
    return house.readiness


async def test_every_road_is_waited_for_at_first() -> None:
    assert ready(House()).waiting == ["router", "expert", "knowledge", "frontier"]


async def test_ready_when_every_road_has_answered() -> None:
    house = House(knowledge=FixedKnowledge([chunk("We open at 9.")]))
    assert await settled(ready(house)) == []
    assert house.router.asked
    assert house.knowledge.queries


async def test_frontier_that_nobody_configured_is_not_waited_for() -> None:
    house = House(frontier=ScriptedModel(FrontierNotConfigured("none")))
    assert await settled(ready(house)) == []


@pytest.mark.parametrize("without", ["say so", "frontier"])
@pytest.mark.parametrize("frontier", ["Nine.", FrontierNotConfigured("none")])
async def test_base_that_has_nothing_on_opening_hours_holds_nobody(
    without: str, frontier: str | Exception
) -> None:
    house = House(
        knowledge=FixedKnowledge([]),
        frontier=ScriptedModel(frontier),
        without_evidence=without,
    )
    assert await settled(ready(house)) == []


async def test_expert_that_is_down_is_waited_for() -> None:
    house = House(expert=ScriptedModel(DOWN), frontier=ScriptedModel(FrontierNotConfigured("none")))
    assert Route.EXPERT in await settled(ready(house))


@pytest.mark.parametrize(
    "house",
    [
        House(router=FixedRouter(DOWN)),
        House(knowledge=FixedKnowledge(DOWN)),
        House(expert=ScriptedModel(DOWN)),
    ],
    ids=["router", "knowledge", "expert"],
)
async def test_part_that_another_road_stands_in_for_is_waited_for(house: House) -> None:
    assert await settled(ready(house))


def refusing(**parts: Any) -> House:
    knowledge = FixedKnowledge([chunk("We open at 9.")])
    return House(knowledge=knowledge, **parts)


@pytest.mark.parametrize(
    ("house", "reason"),
    [
        (
            refusing(frontier=ScriptedModel(InvalidRequest("max_output_tokens: at least 16"))),
            "invalid_value",
        ),
        (refusing(router=FixedRouter(decision(barred=(Route.FRONTIER,)))), "road_barred"),
        (refusing(frontier=ScriptedModel(FrontierRefused("wrong key"))), "frontier-refused"),
        (refusing(frontier=ScriptedModel(FrontierNotConfigured("none"))), "not-configured"),
        (refusing(frontier=ScriptedModel(DOWN)), "frontier-service-unavailable"),
    ],
    ids=["400", "barred", "wrong key", "not configured", "down"],
)
async def test_a_frontier_that_cannot_answer_does_not_hold_the_house(
    house: House, reason: str
) -> None:
    readiness = ready(house)
    assert await settled(readiness) == []
    assert reason in readiness.refused["frontier"]


async def test_readyz_says_which_road_does_not_answer_and_why() -> None:
    house = refusing(router=FixedRouter(decision(barred=(Route.FRONTIER,))))
    assert await settled(house.readiness) == []
    transport = httpx.ASGITransport(house.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    assert "road_barred" in answer.json()["refused"]["frontier"]


async def test_a_house_whose_every_road_refuses_is_not_ready() -> None:
    broken = InvalidRequest("the chat template fails")
    barred = FixedRouter(decision(barred=(Route.FRONTIER, Route.KNOWLEDGE)))
    readiness = ready(House(router=barred, expert=ScriptedModel(broken)))
    assert await settled(readiness)


async def test_no_provider_finds_the_question_too_short() -> None:
    house = refusing()
    await settled(ready(house))
    assert [asked.max_tokens for asked in house.frontier.asked] == [16]
