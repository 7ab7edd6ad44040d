"""The frontier proxy as a Serve deployment: the one door through which anything leaves the house.

Pins are its `user_config`: Serve hands changed ones to the running replicas. They are checked here
for every call, whoever makes it, in all that the call carries.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from pydantic import ValidationError

from serve_app.coalescing import coalesce
from serve_app.domain import Delta, Generation, RequestContext, Route
from serve_app.errors import RoadBarred, SettingsError, Unavailable
from serve_app.frontier.masking import Masked
from serve_app.frontier.pictures import Pictures
from serve_app.frontier.upstreams import Upstreams
from serve_app.pins import Pins, carried, matched
from serve_app.settings import FrontierSettings
from serve_app.telemetry import metrics, tracing

log = logging.getLogger(__name__)


class FrontierServer:
    """Answers by somebody else's model, or says that none is configured."""

    def __init__(self, settings: FrontierSettings, otlp_endpoint: str | None) -> None:
        tracing.configure(otlp_endpoint, "frontier")
        self._settings = settings
        self._upstreams = Upstreams(settings)
        self._mask = settings.mask
        self._pictures = Pictures(settings.images)
        self._pins: Pins | None = None
        metrics.circuits(self._upstreams.circuits)

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Take new pins, or go on with the old ones.

        Raises:
            SettingsError: They are bad and there are no old ones.
        """
        try:
            self._pins = Pins.model_validate(config).forbidding(Route.FRONTIER)
        except ValidationError as error:
            if self._pins is None:
                raise SettingsError(f"the pins cannot be read: {error}") from None
            log.exception("the new pins are bad; the old ones stay in force")

    async def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncIterator[Delta]:
        """Stream the provider's answer; the last delta carries `finish_reason` and `usage`.

        Raises:
            RoadBarred: A pin keeps something that the call carries in the house.
            InvalidRequest: A picture cannot be had.
            TriviumError: No provider answers.
        """
        await self._check(context, generation)
        generation = await self._pictures.as_data(generation, context.deadline)
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": (self._settings.provider or "").partition("-")[0] or None,
            "gen_ai.request.model": self._settings.model or None,
            "gen_ai.request.max_tokens": generation.max_tokens,
        }
        name = f"chat {self._settings.model or 'frontier'}"
        with tracing.span(name, attributes, parent=context.trace) as span:
            ask = partial(self._upstreams.generate, deadline=context.deadline)
            deltas = Masked(ask, self._mask).generate(generation)
            async with aclosing(coalesce(deltas)) as merged:
                async for delta in merged:
                    if delta.provider_id:
                        span.set_attribute("gen_ai.response.id", delta.provider_id)
                        span.set_attribute("gen_ai.response.model", delta.model or "")
                    if usage := delta.usage:
                        span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
                        span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
                    yield delta

    async def _check(self, context: RequestContext, generation: Generation) -> None:
        if self._pins is None:
            raise Unavailable("it is not known yet what may leave the house", retry_after_s=1.0)
        pins = self._pins.of(context.tenant)
        found = await matched(pins, carried(generation)) if pins else frozenset[str]()
        held = [pin.name for pin in pins if pin.holds(found, generation.intended)]
        if held:
            log.info("request %s stays in the house: %s", context.request_id, ", ".join(held))
            raise RoadBarred("the policy does not let this question go to trivium/frontier")
