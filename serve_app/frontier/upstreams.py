"""Several outside models in order: where one cannot answer the next one does, before any text."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from serve_app.domain import Delta, Generation, Lost
from serve_app.errors import InvalidRequest, Overloaded, TriviumError, Unavailable
from serve_app.frontier.providers import provider
from serve_app.frontier.retrying import Retrying
from serve_app.settings import FrontierSettings

log = logging.getLogger(__name__)


class Bounded:
    """An outside model that is asked so many things at once and no more.

    What is beyond does not wait: another model, or road, may answer at once.
    """

    def __init__(self, upstream: Retrying, most: int | None) -> None:
        self._upstream = upstream
        self._most = most
        self._now = 0

    @property
    def resting(self) -> bool:
        """Whether it is being left alone."""
        return self._upstream.resting

    async def generate(self, generation: Generation, deadline: float) -> AsyncGenerator[Delta]:
        """As `Retrying.generate`.

        Raises:
            Overloaded: It is busy with as many as it may have.
        """
        if self._now == self._most:
            raise Overloaded("the frontier is busy; try again shortly", retry_after_s=1.0)
        self._now += 1
        try:
            async with aclosing(self._upstream.generate(generation, deadline)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self._now -= 1


class Upstreams:
    """Each has retries, a circuit breaker and a bound of its own."""

    def __init__(self, settings: FrontierSettings) -> None:
        asked = [provider(each, settings.silence_s) for each in settings.upstreams]
        self._all = [
            (each.model, Bounded(Retrying(model, settings), each.max_concurrent))
            for each, model in zip(settings.upstreams, asked, strict=True)
        ]
        self._providers = [each.provider for each in settings.upstreams]
        self._clients = asked
        self._calls = 0
        self._retired = False

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Around a call: until it ends no connection is closed."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            if self._retired:
                await self.retire()

    async def retire(self) -> None:
        """Others have taken their place: close the connections, once the last call has ended."""
        self._retired = True
        if self._calls:
            return
        for each in self._clients:
            try:
                await each.aclose()
            except Exception:
                # It is no part of any call's work.
                log.warning("a provider's connections do not close", exc_info=True)

    def circuits(self) -> list[tuple[str, str, bool]]:
        """Provider and model of each that is configured, and whether it is being left alone."""
        return [
            (named, model, upstream.resting)
            for named, (model, upstream) in zip(self._providers, self._all, strict=True)
            if named
        ]

    async def generate(self, generation: Generation, deadline: float) -> AsyncGenerator[Delta]:
        """As `Bounded.generate`; the first delta names the model, and so does one with lost tries.

        Raises:
            TriviumError: Why the last one that was away could not; `InvalidRequest` only if all
                of them refuse.
        """
        parts = {"all": self._all, "first": self._all[:1], "others": self._all[1:]}
        asked = parts[generation.among]
        told: TriviumError | None = None
        for number, (model, upstream) in enumerate(asked, start=1):
            begun = named = False
            follows = number < len(asked)
            try:
                async with aclosing(upstream.generate(generation, deadline)) as deltas:
                    async for delta in deltas:
                        begun = begun or bool(delta.said)
                        if delta.lost or not named:
                            named = True
                            lost = tuple(Lost(model, each.again or follows) for each in delta.lost)
                            delta = replace(delta, model=model, lost=lost)
                        yield delta
                return
            except (Unavailable, Overloaded, InvalidRequest) as error:
                if begun:
                    raise
                # What one refuses another would have taken, had it been there.
                if told is None or not isinstance(error, InvalidRequest):
                    told = error
                if follows:
                    log.warning("%s cannot answer (%s): the next is asked", model, error.code)
        if told:
            raise told
