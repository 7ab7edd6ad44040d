"""The one door: whoever calls, what a pin keeps never reaches a provider."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain import Generation, Message
from serve_app.errors import RoadBarred, SettingsError, Unavailable
from serve_app.frontier.deployment import FrontierServer
from serve_app.plain_data import yaml_file
from serve_app.router.policy import DEFAULT
from serve_app.router.policy import pins as pins_of
from tests.fixtures import context
from tests.frontier.wire import ASK, KEY, Recorder

PIN = {"name": "projects", "never": ["frontier"], "matches": r"\bbluebird\b"}
LEGAL = {"name": "legal", "never": ["frontier"], "intents": ["legal"]}
SECRET = Generation((Message("user", "Project Bluebird"), Message("user", "And now?")), 10)


@contextlib.asynccontextmanager
async def door(
    *pins: dict[str, Any], **tenants: list[dict[str, Any]]
) -> AsyncIterator[tuple[FrontierServer, Recorder]]:
    """The frontier's proxy with pins of everybody and of tenants, and what its provider got."""
    async with Recorder.listening("openai") as recorder:
        upstream = {"provider": "openai", "model": "m", "api_key": KEY, "base_url": recorder.url}
        server = FrontierServer(pins_of, None)
        await server.reconfigure(config(upstream, *pins, **tenants))
        yield server, recorder


def config(
    upstream: dict[str, Any], *pins: dict[str, Any], **tenants: list[dict[str, Any]]
) -> dict[str, Any]:
    own = {tenant: {"pins": theirs} for tenant, theirs in tenants.items()}
    policy = {**yaml_file(DEFAULT), "pins": list(pins), "tenants": own}
    return {"frontier": upstream, "router": {"policy": policy}}


async def ask(server: FrontierServer, generation: Generation = ASK, tenant: str = "default") -> str:
    deltas = server.generate(context(tenant=tenant), generation)
    return "".join([delta.text async for delta in deltas])


async def test_what_a_pin_keeps_stays() -> None:
    async with door(PIN) as (server, recorder):
        assert await ask(server) == "Héllo"
        with pytest.raises(RoadBarred):
            await ask(server, SECRET)
        assert len(recorder.received) == 1
    async with door() as (server, recorder):
        await ask(server, SECRET)
        assert b"Bluebird" in recorder.received[0]


async def test_pins_of_a_tenant_are_its_own() -> None:
    async with door(clinic=[PIN]) as (server, recorder):
        with pytest.raises(RoadBarred):
            await ask(server, SECRET, "clinic")
        assert recorder.received == []
        await ask(server, SECRET, "acme")


async def test_pin_that_forbids_another_road_alone_lets_out() -> None:
    async with door({**PIN, "never": ["knowledge"]}) as (server, _):
        assert await ask(server, SECRET) == "Héllo"


@pytest.mark.parametrize(("intended", "leaves"), [(None, False), (("legal",), False), ((), True)])
async def test_caller_that_did_not_look_for_intents_does_not_leave(
    intended: tuple[str, ...] | None, leaves: bool
) -> None:
    async with door(LEGAL) as (server, recorder):
        with contextlib.nullcontext() if leaves else pytest.raises(RoadBarred):
            await ask(server, replace(ASK, intended=intended))
        assert len(recorder.received) == leaves


async def test_nothing_leaves_before_the_pins_are_known() -> None:
    server = FrontierServer(pins_of, None)
    with pytest.raises(Unavailable, match="not known yet"):
        await ask(server)


async def test_new_settings_hold_at_once_and_bad_ones_change_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with door() as (server, recorder), Recorder.listening("openai") as other:
        there = {"provider": "openai", "model": "m", "api_key": KEY, "base_url": other.url}
        under_way = server.generate(context(), ASK)
        first = await anext(under_way)
        await server.reconfigure(config(there, PIN))
        await server.reconfigure(config(there, {"name": "bad", "never": ["mars"]}))
        await server.reconfigure(config({**there, "provider": "mars"}))
        assert caplog.text.count("old ones stay") == 2
        with pytest.raises(RoadBarred):
            await ask(server, SECRET)
        assert await ask(server) == "Héllo"
        # What had begun has gone on to where it was sent.
        assert recorder.connections == 1
        rest = [delta.text async for delta in under_way]
        assert "".join([first.text, *rest]) == "Héllo"
        async with asyncio.timeout(5):
            while recorder.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (len(recorder.received), len(other.received)) == (1, 1)
    with pytest.raises(SettingsError):
        await FrontierServer(pins_of, None).reconfigure(config({}, {}))


async def test_log_names_the_pin_and_not_the_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with door(PIN) as (server, _):
        with pytest.raises(RoadBarred) as caught:
            await ask(server, SECRET)
    assert "projects" in caplog.text
    assert "Bluebird" not in caplog.text + str(caught.value)
