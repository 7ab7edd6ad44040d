"""Ready means warm: every road has answered once, through the very path that requests take.

A road that cannot answer as things are set up (a pin bars it, its provider refuses the key or the
request) is told with its reason and not waited for, as long as another road answers.
"""

from __future__ import annotations

import asyncio
import logging
import time

from serve_app.domain import WARM_UP, Message, RequestContext, Route
from serve_app.errors import InvalidRequest, PermissionDenied, Unavailable
from serve_app.gateway.accounting import UNWRITTEN, Accounting
from serve_app.orchestration.knowledge import NO_EVIDENCE
from serve_app.orchestration.run import Question

log = logging.getLogger(__name__)

_PATIENCE_S = 30.0
_TOKENS = 16  # no provider refuses so many


class Readiness:
    """Asks one question per road until each has been answered. `waiting` names the others.

    Args:
        before: Under the settings before these. Whoever was ready is: only roads that could not
            answer as they were set up are asked again, and nobody waits for them.

    Attributes:
        refused: Roads that cannot answer as they are set up, and why: as found at the start.
    """

    def __init__(
        self, accounting: Accounting, collection: str, before: Readiness | None = None
    ) -> None:
        self._accounting = accounting
        self._collection = collection
        # `None` is the router: no pinned question passes through it.
        self._pending: list[Route | None] = [*before._pending] if before else [None, *Route]
        self._again = [Route(road) for road in before.refused] if before else []
        self.refused: dict[str, str] = dict(before.refused) if before else {}

    @property
    def waiting(self) -> list[str]:
        """Parts that have not answered yet, in the order they are asked."""
        return ["router" if part is None else part.value for part in self._pending]

    async def warm_up(self) -> None:
        """Return when every road has answered, or has said why it never will."""
        delay = 0.5
        while self._pending:
            try:
                await self._settle(self._pending[0])
            except Exception as error:
                log.info("not ready: %r", error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
                continue
            self._pending.pop(0)
        log.info("ready: every road has answered, or said why it does not")
        for road in self._again:
            del self.refused[road.value]
            try:
                await self._settle(road)
            except Exception as error:
                self._refuse(road, getattr(error, "message", repr(error)))

    async def _settle(self, road: Route | None) -> None:
        """Return when a road has answered, or cannot as it is set up while others can."""
        try:
            await self._ask(road)
        except (InvalidRequest, PermissionDenied) as error:
            if road is None or len(self.refused.keys() - {road.value}) == len(Route) - 1:
                raise
            self._refuse(road, f"{error.code}: {error.message}")

    async def _ask(self, road: Route | None) -> None:
        context = RequestContext(WARM_UP, time.time() + _PATIENCE_S, api_key=WARM_UP)
        text = "What are the opening hours of our stores?"
        question = Question((Message("user", text),), self._collection, road, max_tokens=_TOKENS)
        # It is paid for like any other.
        model = f"trivium/{road.value if road else 'auto'}"
        async with self._accounting.answering(context, question, model) as (_, task):
            answer = await task
        # Another road may stand in for the frontier, which costs money or has no key; for nothing
        # else: a part that is not there yet is waited for. A base that has nothing on it is there.
        absent = [
            reason
            for reason in answer.degraded
            if not reason.startswith("frontier") and reason not in (UNWRITTEN, NO_EVIDENCE)
        ]
        if absent:
            raise Unavailable(", ".join(absent))
        outside = [reason for reason in answer.degraded if reason.startswith("frontier")]
        if road is Route.FRONTIER and outside:
            self._refuse(road, ", ".join(outside))

    def _refuse(self, road: Route, reason: str) -> None:
        log.warning("%s does not answer as it is set up: %s", road.value, reason)
        self.refused[road.value] = reason
