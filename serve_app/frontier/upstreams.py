"""Several outside models in order: where one cannot answer the next one does, before any text."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from serve_app.domain import Delta, Generation
from serve_app.errors import Overloaded, Unavailable
from serve_app.frontier.providers import provider
from serve_app.frontier.retrying import Retrying
from serve_app.settings import FrontierSettings

log = logging.getLogger(__name__)


class Upstreams:
    """Each has retries and a circuit breaker of its own."""

    def __init__(self, settings: FrontierSettings) -> None:
        self._all = [
            (each.model, Retrying(provider(each, settings.silence_s), settings))
            for each in settings.upstreams
        ]

    async def generate(self, generation: Generation, deadline: float) -> AsyncGenerator[Delta]:
        """As `Retrying.generate`; deltas name the model."""
        for number, (model, upstream) in enumerate(self._all, start=1):
            begun = False
            try:
                async with aclosing(upstream.generate(generation, deadline)) as deltas:
                    async for delta in deltas:
                        begun = begun or bool(delta.said)
                        yield replace(delta, model=model)
            except (Unavailable, Overloaded) as error:
                if begun or number == len(self._all):
                    raise
                log.warning("%s cannot answer (%s): the next model is asked", model, error.code)
            else:
                return
