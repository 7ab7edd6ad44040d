"""What stands between answers, read now and then for the metrics: limits, canaries, sources."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

from serve_app.errors import TriviumError
from serve_app.expert.serving import Adapters
from serve_app.ledger import report
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.sources import Sources
from serve_app.telemetry.drift import History
from serve_app.telemetry.metrics import StandingMetrics

log = logging.getLogger(__name__)

_LOOK_S = 10.0  # as often as Ray reports


class Watch:
    """Tells the metrics what the ledger and the adapters' registry say.

    Args:
        registry: Of the adapters; `None` where none are served.
        sources: Names of those that the settings have now; of others nothing is told.
    """

    def __init__(
        self,
        database: Database,
        book: Book,
        adapters: Adapters,
        registry: str | None,
        metrics: StandingMetrics,
        sources: Collection[str] = (),
    ) -> None:
        self._database = database
        self._book = book
        self._adapters = adapters
        self._registry = registry
        self._metrics = metrics
        self._named = sources

    async def run(self) -> None:
        """Look every few seconds until cancelled. What cannot be read is not told."""
        while True:
            for tell in (self.limits, self.canaries, self.sources):
                try:
                    await tell()
                except Exception as error:
                    # Nobody's answer depends on it.
                    log.warning("not told to the metrics: %r", error)
            await asyncio.sleep(_LOOK_S)

    async def limits(self) -> None:
        """Tell what is left of the limits that the settings name."""
        found = await report.left_of_named(self._database, self._book.limits, self._book.clock())
        for name, each in found:
            self._metrics.limited(name, each.per, each.unit, each.limit, each.used + each.held)

    async def canaries(self) -> None:
        """Tell of the last canary of each adapter that serves."""
        if self._registry is None:
            return
        for described in self._adapters.catalogue():
            if record := await asyncio.to_thread(_last, self._registry, described["name"]):
                self._metrics.canary(record)

    async def sources(self) -> None:
        """Tell how the sources of the settings stand."""
        now = self._book.clock()
        for name, each in (await Sources(self._database).all()).items():
            lag = each.lag(now)
            if name in self._named and lag is not None:
                self._metrics.source(name, lag, each.failures)


def _last(registry: str, adapter: str) -> dict[str, Any] | None:
    try:
        records = History.of(registry, adapter).records()
    except TriviumError as error:
        log.warning("the canary of %s is not told to the metrics: %s", adapter, error)
        return None
    return records[-1] if records else None
