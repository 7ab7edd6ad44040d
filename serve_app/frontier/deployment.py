"""The frontier proxy as a Serve deployment: the one door through which anything leaves the house.

Its settings and the policy's pins are its `user_config`: Serve hands changed ones to the running
replicas. Pins are checked here for every call, whoever makes it, in all that the call carries. Keys
of providers come from the environment.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from serve_app.domain import Delta, Generation, RequestContext, Route
from serve_app.errors import RoadBarred, SettingsError, Unavailable
from serve_app.frontier.masking import Masked
from serve_app.frontier.pictures import Pictures
from serve_app.frontier.providers import not_configured
from serve_app.frontier.upstreams import Upstreams
from serve_app.pins import Pins, carried, matched
from serve_app.priority import after_engines
from serve_app.settings import FrontierSettings, from_args
from serve_app.telemetry import metrics, tracing

log = logging.getLogger(__name__)

PinsOf = Callable[[Path | Mapping[str, Any] | None], Pins]


@dataclass(frozen=True, slots=True)
class _InForce:
    """What an answer begins with, and goes on with to its end."""

    settings: FrontierSettings
    upstreams: Upstreams
    pictures: Pictures
    pins: Pins


class FrontierServer:
    """Answers by somebody else's model, or says that none is configured.

    Args:
        pins_of: Reads the pins of a policy: a file, what it would hold, or `None` for the default.
    """

    def __init__(self, pins_of: PinsOf, otlp_endpoint: str | None) -> None:
        after_engines()
        tracing.configure(otlp_endpoint, "frontier")
        self._pins_of = pins_of
        self._in_force: _InForce | None = None
        metrics.circuits(self._circuits)

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Take new settings (`{"frontier": …, "router": {"policy": …}}`), or go on with the old.

        Raises:
            SettingsError: They are bad and there are no old ones.
        """
        try:
            settings = from_args(config)
            pins = self._pins_of(settings.router.policy).forbidding(Route.FRONTIER)
        except SettingsError:
            if self._in_force is None:
                raise
            log.exception("the frontier's new settings are bad; the old ones stay in force")
            return
        ours, before = settings.frontier, self._in_force
        # What is known of a provider's health is kept where only the pins have changed.
        same = before is not None and before.settings == ours
        upstreams = before.upstreams if before and same else Upstreams(ours)
        self._in_force = _InForce(ours, upstreams, Pictures(ours.images), pins)
        if before and not same:
            await before.upstreams.retire()

    async def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncIterator[Delta]:
        """Stream the provider's answer; the last delta carries `finish_reason` and `usage`.

        Raises:
            RoadBarred: A pin keeps something that the call carries in the house.
            InvalidRequest: A picture cannot be had.
            TriviumError: No provider answers.
        """
        now = self._in_force
        if now is None:
            raise Unavailable("it is not known yet what may leave the house", retry_after_s=1.0)
        answer = self._answer(now, context, generation)
        async with now.upstreams.held(), aclosing(answer) as deltas:
            async for delta in deltas:
                yield delta

    async def _answer(
        self, now: _InForce, context: RequestContext, generation: Generation
    ) -> AsyncGenerator[Delta]:
        await _check(now.pins, context, generation)
        if not any(each.provider for each in now.settings.upstreams):
            raise not_configured()  # before pictures are fetched and texts masked that go nowhere
        generation = await now.pictures.as_data(generation, context.deadline)
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": (now.settings.provider or "").partition("-")[0] or None,
            "gen_ai.request.model": now.settings.model or None,
            "gen_ai.request.max_tokens": generation.max_tokens,
        }
        name = f"chat {now.settings.model or 'frontier'}"
        with tracing.span(name, attributes, parent=context.trace) as span:
            ask = partial(now.upstreams.generate, deadline=context.deadline)
            answer = Masked(ask, now.settings.mask).generate(generation)
            async with aclosing(answer) as deltas:
                async for delta in deltas:
                    if delta.provider_id:
                        span.set_attribute("gen_ai.response.id", delta.provider_id)
                    if delta.model:
                        span.set_attribute("gen_ai.response.model", delta.model)
                    if usage := delta.usage:
                        span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
                        span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
                    yield delta

    def _circuits(self) -> list[tuple[str, str, bool]]:
        return self._in_force.upstreams.circuits() if self._in_force else []


async def _check(known: Pins, context: RequestContext, generation: Generation) -> None:
    pins = known.of(context.tenant)
    found = await matched(pins, carried(generation)) if pins else frozenset[str]()
    held = [pin.name for pin in pins if pin.holds(found, generation.intended)]
    if held:
        log.info("request %s stays in the house: %s", context.request_id, ", ".join(held))
        raise RoadBarred("the policy does not let this question go to trivium/frontier")
