"""Ready means warm: every road has answered once, through the very path that requests take."""

from __future__ import annotations

import asyncio
import logging
import time

from serve_app.domain import Message, RequestContext, Route
from serve_app.errors import TriviumError
from serve_app.orchestration.graph import Orchestrator
from serve_app.orchestration.run import Question

log = logging.getLogger(__name__)

_PATIENCE_S = 30.0


class Readiness:
    """Asks one question per road until each has been answered. `waiting` names the others."""

    def __init__(self, orchestrator: Orchestrator, collection: str) -> None:
        self._orchestrator = orchestrator
        self._collection = collection
        self.waiting = list(Route)

    async def warm_up(self) -> None:
        """Return when every road has answered."""
        delay = 0.5
        # The router is asked first: no pinned question passes through it.
        pending: list[Route | None] = [None, *self.waiting]
        while pending:
            try:
                await self._ask(pending[0])
            except TriviumError as error:
                log.info("not ready: %s", error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
                continue
            if (answered := pending.pop(0)) is not None:
                self.waiting.remove(answered)
        log.info("ready: every road has answered")

    async def _ask(self, road: Route | None) -> None:
        context = RequestContext("warm-up", time.time() + _PATIENCE_S)
        text = "What are the opening hours of our stores?"
        question = Question((Message("user", text),), self._collection, road, max_tokens=8)
        async with self._orchestrator.answering(context, question) as (_, task):
            await task
