from __future__ import annotations

import asyncio
import logging

import pytest

from serve_app.domain import Route
from serve_app.errors import FrontierNotConfigured, Unavailable
from serve_app.gateway.readiness import Readiness
from tests.fixtures import FixedKnowledge, FixedRouter, House, ScriptedModel, chunk

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
    return Readiness(house.accounting, "default")


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
