"""Whether an outside model is left alone, as the frontier's replica tells it."""

from __future__ import annotations

import time

import pytest
from pydantic import SecretStr

from serve_app.domain import Generation, Message
from serve_app.errors import TriviumError
from serve_app.frontier.upstreams import Upstreams
from serve_app.settings import CircuitSettings, FrontierSettings, UpstreamSettings

NOWHERE = "http://127.0.0.1:9/v1"  # discard: nobody listens


async def ask(upstreams: Upstreams) -> None:
    asked = Generation((Message("user", "hi"),), 8)
    async for _ in upstreams.generate(asked, time.time() + 20):
        pass


async def test_a_provider_that_keeps_failing_is_told_as_left_alone() -> None:
    fallback = UpstreamSettings(
        provider="anthropic", model="spare", base_url=NOWHERE, api_key=SecretStr("key")
    )
    upstreams = Upstreams(
        FrontierSettings(
            provider="openai",
            model="large",
            base_url=NOWHERE,
            api_key=SecretStr("key"),
            retries=0,
            circuit=CircuitSettings(failures=1),
            fallbacks=(fallback,),
        )
    )
    assert upstreams.circuits() == [("openai", "large", False), ("anthropic", "spare", False)]
    with pytest.raises(TriviumError):
        await ask(upstreams)
    assert upstreams.circuits() == [("openai", "large", True), ("anthropic", "spare", True)]


def test_without_a_provider_there_is_no_circuit() -> None:
    assert Upstreams(FrontierSettings()).circuits() == []
