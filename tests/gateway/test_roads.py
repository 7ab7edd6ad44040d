"""What the gateway knows of the router's policy without asking for each question."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain import RequestContext
from serve_app.errors import Unavailable
from serve_app.gateway.roads import RemoteRouter

CONTEXT = RequestContext("r", deadline=float("inf"))


class Deployment:
    """A router whose policy has pins for some tenants; keeps who was asked about."""

    def __init__(self, *pinned: str) -> None:
        self.pinned = pinned
        self.down = False
        self.held: asyncio.Event | None = None
        self.asked: list[str] = []

    async def call(self, method: str, context: RequestContext) -> bool:
        assert method == "may_bar"
        self.asked.append(context.tenant)
        if self.down:
            raise Unavailable("the router is restarting")
        bars = context.tenant in self.pinned
        if self.held:
            await self.held.wait()
        return bars


def router(deployment: Any) -> RemoteRouter:
    return RemoteRouter(deployment, replicas=1, batch=8, model="small")


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
