"""What the gateway knows of the router's policy without asking for each question."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from serve_app.domain import RequestContext
from serve_app.errors import Unavailable
from serve_app.gateway.roads import RemoteRouter

CONTEXT = RequestContext("r", deadline=float("inf"))


class Deployment:
    """A router whose policy has pins for some tenants; keeps who was asked about."""

    def __init__(self, *pinned: str) -> None:
        self.pinned = pinned
        self.down = False
        self.asked: list[str] = []

    async def call(self, method: str, context: RequestContext) -> bool:
        assert method == "may_bar"
        self.asked.append(context.tenant)
        if self.down:
            raise Unavailable("the router is restarting")
        return context.tenant in self.pinned


def router(deployment: Any) -> RemoteRouter:
    return RemoteRouter(deployment, replicas=1, batch=8, model="small")


async def test_pins_are_asked_about_once_for_each_tenant() -> None:
    deployment = Deployment("clinic")
    one = router(deployment)
    for tenant, barred in [("clinic", True), ("acme", False)] * 2:
        assert await one.may_bar(replace(CONTEXT, tenant=tenant)) is barred
    assert deployment.asked == ["clinic", "acme"]


async def test_whoever_cannot_ask_reckons_with_a_pin_and_asks_again() -> None:
    deployment = Deployment()
    one = router(deployment)
    deployment.down = True
    assert await one.may_bar(CONTEXT)
    deployment.down = False
    assert not await one.may_bar(CONTEXT)
