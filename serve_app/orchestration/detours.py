"""Where a question goes whose road has failed: who may stand in, and what is said when nobody can.

A question that needs facts never goes to the expert, which has none: the knowledge road stands in
there. When facts cannot be looked up and nobody else may answer, the caller is told so.
"""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.domain import Decision, Route
from serve_app.errors import (
    InvalidRequest,
    KnowledgeUnavailable,
    TriviumError,
    Unavailable,
)
from serve_app.orchestration.run import Question
from serve_app.orchestration.state import State

NOT_NOW = "This cannot be looked up at the moment. Please ask again later."

_AGAIN_S = 5.0

Fallbacks = Mapping[Route, tuple[Route, ...]]


def needs_facts(decision: Decision) -> bool:
    """Whether the answer has to be looked up."""
    return decision.route is Route.KNOWLEDGE or decision.looks_up


def may_go_on(error: TriviumError, question: Question, failed: Route) -> bool:
    """Whether another road may do what this one refused: not where the caller named this one."""
    return failed is not question.named or not isinstance(error, InvalidRequest)


def next_road(
    fallbacks: Fallbacks, decision: Decision, tried: tuple[Route, ...], *, facts: bool
) -> Route | None:
    """The first that may stand in and has not been tried."""
    for road in fallbacks.get(decision.route, ()):
        able = Route.KNOWLEDGE if facts and road is Route.EXPERT else road
        if able not in (*tried, *decision.barred):
            return able
    return None


def given_up(state: State, first: TriviumError, *, facts: bool) -> TriviumError:
    """What the caller is told when no road is left."""
    away = isinstance(first, Unavailable) or first.status == Unavailable.status
    if not facts or state.get("found") or not (away or first.status >= 500):
        return first
    return KnowledgeUnavailable(
        "what this question needs cannot be looked up now; try again shortly",
        retry_after_s=first.retry_after_s or _AGAIN_S,
    )
