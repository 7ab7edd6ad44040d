"""What the router's second stage takes of the expert's model is on the answer's account."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain import Decision, Delta, Generation, Message, RequestContext, Route, Usage
from serve_app.errors import BudgetExceeded, Unavailable
from serve_app.gateway.roads import RemoteRouter
from tests.fixtures import FixedRouter, House, decision
from tests.gateway.test_http import CHAT, TURNS, send

FIRST, SECOND = decision(), replace(decision(Route.FRONTIER), stage="2", usage=Usage(300, 8))
CONTEXT = RequestContext("r", deadline=float("inf"))


class InDoubt:
    """A router deployment that is unsure of everything."""

    def onward(self, context: RequestContext) -> RequestContext:
        return context

    async def within(self, _: RequestContext, result: Any) -> Any:
        return await result

    def __init__(self, second: Decision | Exception) -> None:
        self.second = second

    async def call(
        self, method: str, _: RequestContext, asked: Any = None, *__: Any, lane: int | None = None
    ) -> Any:
        if method == "pins":
            return ()
        if method == "decide":
            return [(FIRST, True) for _ in asked]
        if isinstance(self.second, Exception):
            raise self.second
        return self.second


class Purse:
    """Keeps what was paid for, or has nothing to pay with."""

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty
        self.noted: list[tuple[Sequence[str], str, Usage | None]] = []

    @asynccontextmanager
    async def paying(
        self, models: Sequence[str], purpose: str, generation: Generation
    ) -> AsyncIterator[Any]:
        if self.empty:
            raise BudgetExceeded("nothing is left", retry_after_s=1.0)
        assert generation.max_tokens < 100
        yield self
        self.noted.append((models, purpose, self.usage))

    def note(self, delta: Delta) -> None:
        self.usage = delta.usage


def router(second: Decision | Exception = SECOND) -> RemoteRouter:
    remote: Any = InDoubt(second)
    return RemoteRouter(remote, replicas=1, batch=8, model="small", collection="docs")


async def test_second_opinion_is_paid_for() -> None:
    purse: Any = Purse()
    assert await router().decide(CONTEXT, [Message("user", "Hm?")], purse) == SECOND
    assert purse.noted == [(["small"], "route", Usage(300, 8))]


async def test_whoever_cannot_pay_for_a_second_opinion_has_the_first() -> None:
    purse: Any = Purse(empty=True)
    assert await router().decide(CONTEXT, [Message("user", "Hm?")], purse) == FIRST


@pytest.mark.parametrize("purse", [Purse(), None])
async def test_second_opinion_that_does_not_come_leaves_the_first(purse: Any) -> None:
    away = router(Unavailable("the router is restarting", retry_after_s=1.0))
    assert await away.decide(CONTEXT, [Message("user", "Hm?")], purse) == FIRST


@pytest.mark.usefixtures("clean_environment")
async def test_answer_costs_its_second_opinion_too() -> None:
    asked = {"messages": TURNS}
    plain = await send(House(), "POST", CHAT, json=asked)
    doubted = House(router=FixedRouter(replace(FIRST, stage="2", usage=Usage(300, 8))))
    answer = await send(doubted, "POST", CHAT, json=asked)
    costs = answer.json()["usage"]["cost_details"]["by_purpose"]
    assert costs["route"] > 0
    assert answer.json()["usage"]["cost"] > plain.json()["usage"]["cost"]
