"""The expert's own doubt: an answer that begins with unlikely tokens is left to the frontier.

The mean log-probability of an answer's first tokens tells wrong answers from right ones without
having learned anything of the queries (arXiv 2605.02241). How well it does so with a model is
measured by `python -m loadtest.doubt`. The tokens that it is read from are held back, so that
nothing has left when another road takes over.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from serve_app.domain import Decision, Delta, Route
from serve_app.settings import DoubtSettings

# What makes the engine tell how likely its tokens are.
LOGPROBS: Mapping[str, Any] = {"logprobs": True}


class InDoubt(Exception):
    """The model holds its own answer to be unlikely.

    Args:
        mean: Log-probability of the tokens that were looked at, on average.
    """

    def __init__(self, mean: float) -> None:
        super().__init__(mean)
        self.mean = mean


class Doubt:
    """Looks at the first tokens of one answer."""

    def __init__(self, rule: DoubtSettings) -> None:
        self._rule = rule
        self._held: list[Delta] = []
        self._logprobs: list[float] = []
        self._began: float | None = None
        self._over = False

    def take(self, delta: Delta) -> Sequence[Delta]:
        """What may leave, with this step.

        Raises:
            InDoubt: Nothing may, and nothing has.
        """
        if self._over:
            return (delta,)
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        self._held.append(delta)
        self._logprobs += delta.logprobs
        if len(self._logprobs) >= self._rule.tokens or delta.finish_reason:
            mean = fmean(self._logprobs) if self._logprobs else 0.0
            if mean < self._rule.below:
                raise InDoubt(mean)
        elif now - self._began < self._rule.within_s:
            return ()
        return self.rest()

    def rest(self) -> Sequence[Delta]:
        """What is still held back; nobody doubts it any more."""
        self._over = True
        held, self._held = self._held, []
        return held


def overruled(decision: Decision, rule: DoubtSettings, mean: float) -> Decision:
    """The decision after the expert has doubted its answer."""
    return replace(
        decision,
        route=Route.FRONTIER,
        stage="2",
        reason=(
            f"the expert doubted its answer: the mean log-probability of its first tokens "
            f"(at most {rule.tokens}) was {mean:.2f}, below {rule.below:g}"
        ),
        confidence=decision.terms[Route.FRONTIER].success if decision.terms else 0.0,
    )
