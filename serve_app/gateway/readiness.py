"""Ready means warm: every road has answered once, through the very path that requests take."""

from __future__ import annotations

import asyncio
import logging
import time

from serve_app.domain import WARM_UP, Message, RequestContext, Route
from serve_app.errors import Unavailable
from serve_app.gateway.accounting import UNWRITTEN, Accounting
from serve_app.orchestration.run import Question

log = logging.getLogger(__name__)

_PATIENCE_S = 30.0


class Readiness:
    """Asks one question per road until each has been answered. `waiting` names the others."""

    def __init__(self, accounting: Accounting, collection: str) -> None:
        self._accounting = accounting
        self._collection = collection
        # `None` is the router: no pinned question passes through it.
        self._pending: list[Route | None] = [None, *Route]

    @property
    def waiting(self) -> list[str]:
        """Parts that have not answered yet, in the order they are asked."""
        return ["router" if part is None else part.value for part in self._pending]

    async def warm_up(self) -> None:
        """Return when every road has answered."""
        delay = 0.5
        while self._pending:
            try:
                await self._ask(self._pending[0])
            except Exception as error:
                log.info("not ready: %r", error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
                continue
            self._pending.pop(0)
        log.info("ready: every road has answered")

    async def _ask(self, road: Route | None) -> None:
        context = RequestContext(WARM_UP, time.time() + _PATIENCE_S, api_key=WARM_UP)
        text = "What are the opening hours of our stores?"
        question = Question((Message("user", text),), self._collection, road, max_tokens=8)
        # It is paid for like any other.
        model = f"trivium/{road.value if road else 'auto'}"
        async with self._accounting.answering(context, question, model) as (_, task):
            answer = await task
        # Another road may stand in for the frontier, which costs money or has no key; for nothing
        # else: a part that is not there yet is waited for.
        absent = [
            reason
            for reason in answer.degraded
            if not reason.startswith("frontier") and reason != UNWRITTEN
        ]
        if absent:
            raise Unavailable(", ".join(absent))
