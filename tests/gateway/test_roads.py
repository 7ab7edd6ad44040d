"""What the gateway knows of the router's policy without asking for each question."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain import Message, RequestContext, Route, estimated_tokens
from serve_app.errors import Unavailable
from serve_app.gateway import roads
from serve_app.gateway.roads import RemoteRouter
from serve_app.pins import Pin
from serve_app.router.turns import Turns
from tests.fixtures import decision

PIN = Pin(name="stays", never=frozenset({Route.FRONTIER}))
CONTEXT = RequestContext("r", deadline=float("inf"))


class Deployment:
    """A router whose policy has pins for some tenants; keeps who was asked about."""

    def __init__(self, *pinned: str) -> None:
        self.pinned = pinned
        self.down = False
        self.held: asyncio.Event | None = None
        self.asked: list[str] = []

    async def call(self, method: str, context: RequestContext) -> tuple[Pin, ...]:
        assert method == "pins"
        self.asked.append(context.tenant)
        if self.down:
            raise Unavailable("the router is restarting")
        pins = (PIN,) if context.tenant in self.pinned else ()
        if self.held:
            await self.held.wait()
        return pins


def router(deployment: Any) -> RemoteRouter:
    return RemoteRouter(deployment, replicas=1, batch=8, model="small", collection="docs")


async def test_pins_are_asked_about_once_for_each_tenant() -> None:
    deployment = Deployment("clinic")
    one = router(deployment)
    for tenant, barred in [("clinic", True), ("acme", False)] * 2:
        assert await one.may_bar(replace(CONTEXT, tenant=tenant)) is barred
    assert deployment.asked == ["clinic", "acme"]


async def test_what_could_not_be_asked_is_not_known_and_asked_again() -> None:
    deployment = Deployment()
    one = router(deployment)
    deployment.down = True
    with pytest.raises(Unavailable):
        await one.may_bar(CONTEXT)
    deployment.down = False
    assert not await one.may_bar(CONTEXT)


async def test_answer_that_was_long_on_its_way_does_not_hide_a_newer_one() -> None:
    deployment = Deployment()
    one = router(deployment)
    late = asyncio.Event()
    deployment.held = late
    first = asyncio.create_task(one.may_bar(CONTEXT))
    await asyncio.sleep(0)  # it has asked
    deployment.held, deployment.pinned = None, (CONTEXT.tenant,)
    assert await one.may_bar(CONTEXT)
    late.set()
    assert not await first
    assert await one.may_bar(CONTEXT)
    assert len(deployment.asked) == 2


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


async def test_pins_are_renewed_before_anybody_has_to_wait_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(roads, "time", clock)
    deployment = Deployment()
    one = router(deployment)
    await one.may_bar(CONTEXT)
    clock.now += 1.5
    deployment.held, deployment.pinned = asyncio.Event(), (CONTEXT.tenant,)
    # The new ones are on their way, once: until they are there the known ones hold.
    assert [await one.may_bar(CONTEXT) for _ in range(3)] == [False] * 3
    await asyncio.sleep(0)
    assert len(deployment.asked) == 2
    deployment.held.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert await one.may_bar(CONTEXT)
    assert len(deployment.asked) == 2


async def test_pins_that_could_not_be_renewed_hold_no_longer_than_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(roads, "time", clock)
    deployment = Deployment(CONTEXT.tenant)
    one = router(deployment)
    await one.may_bar(CONTEXT)
    deployment.down = True
    clock.now += 1.5
    assert await one.may_bar(CONTEXT)
    await asyncio.sleep(0)
    clock.now += 1.0
    with pytest.raises(Unavailable):
        await one.may_bar(CONTEXT)


class Deciding(Deployment):
    """Keeps what it was asked to decide on."""

    def __init__(self, *pins: Pin) -> None:
        super().__init__()
        self.pins = pins
        self.turns: list[Turns] = []

    def onward(self, context: RequestContext) -> RequestContext:
        return context

    async def within(self, _: RequestContext, result: Any) -> Any:
        return await result

    async def call(self, method: str, _: RequestContext, *args: Any, lane: Any = None) -> Any:
        if method == "pins":
            return self.pins
        if self.held and any(turns.said for _, turns in args[0]):
            await self.held.wait()
        self.turns += [turns for _, turns in args[0]]
        return [(decision(), False) for _ in args[0]]


LONG = [
    Message("system", "word " * 10_000 + "Blue\u200bbird" + " word" * 10_000),
    Message("user", "one"),
    Message("assistant", "two"),
    Message("user", "three"),
]
LENGTH = estimated_tokens(each.content for each in LONG)
TEXT = Pin(name="text", never=frozenset({Route.FRONTIER}), matches=r"\bbluebird\b")
INTENT = Pin(name="intent", never=frozenset({Route.FRONTIER}), intents=frozenset({"legal"}))


async def test_router_decides_by_pins_on_all_that_was_said() -> None:
    deployment = Deciding(TEXT, INTENT)
    await router(deployment).decide(CONTEXT, LONG, None)
    assert deployment.turns == [
        Turns(
            "three", "one", ("one", "three"), frozenset({"text"}), tokens=LENGTH, collection="docs"
        )
    ]


@pytest.mark.parametrize("pins", [(), (TEXT,)])
async def test_turns_that_no_pin_asks_for_do_not_travel(pins: tuple[Pin, ...]) -> None:
    deployment = Deciding(*pins)
    await router(deployment).decide(CONTEXT, LONG, None)
    found = frozenset({"text"}) if pins else None
    assert deployment.turns == [Turns("three", "one", (), found, LENGTH, "docs")]


async def test_a_question_waits_for_nobody_whose_many_turns_are_read_for_intents() -> None:
    deployment = Deciding(INTENT)
    one = router(deployment)
    deployment.held = asyncio.Event()
    long = asyncio.create_task(one.decide(CONTEXT, LONG, None))
    short = one.decide(CONTEXT, [Message("user", "four")], None)
    await asyncio.wait_for(short, 5)
    assert not long.done()
    deployment.held.set()
    await long
    assert deployment.turns == [
        Turns("four", matched=frozenset(), tokens=1, collection="docs"),
        Turns("three", "one", ("one", "three"), frozenset(), LENGTH, "docs"),
    ]
