"""A role, and those that may fill it, in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Concatenate, Generic, ParamSpec, TypeVar

from opentelemetry.trace import Span

from serve_app.domain import Route
from serve_app.errors import DeadlineExceeded, RoadBarred, TriviumError
from serve_app.orchestration.run import Run
from serve_app.orchestration.state import reason
from serve_app.settings import RULE, Filler
from serve_app.telemetry import tracing

P = ParamSpec("P")
T = TypeVar("T")

_SHARE = 0.5  # of the time that a request has left


@dataclass(frozen=True)
class Role(Generic[P, T]):
    """What is asked of whoever fills it; the next one is asked where one fails.

    Attributes:
        name: As the trace and `x-trivium-degraded` call it.
        rule: Fills it at last; never fails.
        models: Those that are asked before, in order.
        timeout_s: How long each of them may take; never more than half of the time left.
    """

    name: str
    rule: Callable[Concatenate[Run, P], Awaitable[T]]
    models: Sequence[tuple[Filler, Callable[Concatenate[Run, P], Awaitable[T]]]] = ()
    timeout_s: float = 0.0

    async def __call__(self, run: Run, *args: P.args, **kwargs: P.kwargs) -> T:
        """Fill it. That a model could not is said on the run; it is not asked again then."""
        for filler, fill in self.models:
            name = f"{self.name}-{filler}"
            if any(each.startswith(name) for each in run.degraded):
                continue
            left = max(0.0, run.context.deadline - time.time())
            try:
                with self._span(filler):
                    async with asyncio.timeout(min(self.timeout_s, left * _SHARE)):
                        return await fill(run, *args, **kwargs)
            except TimeoutError:
                error: TriviumError = DeadlineExceeded(f"{self.name} took too long")
            except TriviumError as failed:
                error = failed
            if isinstance(error, RoadBarred) and run.decision:
                # A pin has met what the call carried: it holds from then on.
                barred = tuple({*run.decision.barred, Route(filler)})
                run.decision = replace(run.decision, barred=barred)
            run.degrade(reason(name, error))
        with self._span(RULE):
            return await self.rule(run, *args, **kwargs)

    def _span(self, filler: Filler) -> AbstractContextManager[Span]:
        attributes = {"trivium.role": self.name, "trivium.role.by": filler}
        return tracing.span(f"role {self.name}", attributes)
