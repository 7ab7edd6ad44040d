"""Where a question goes after a step that decides, or that lets a model answer."""

from __future__ import annotations

from serve_app.domain import Route
from serve_app.orchestration.state import State


def after_decide(state: State) -> str:
    """Straight to the expert; to retrieval for facts, and for reasoning over what changes or what
    the knowledge base speaks of."""
    match state["road"]:
        case Route.KNOWLEDGE:
            return "rewrite"
        case Route.FRONTIER if state["decision"].looks_up and "chunks" not in state:
            return "rewrite"
        case Route.FRONTIER:
            return "frontier"
        case Route.EXPERT:
            return "expert"


def after_frontier(state: State) -> str:
    if not state["error"]:
        return "end"
    # It stood in for evidence, which no other road has either.
    return "abstain" if state.get("escalated") else "detour"


def after_expert(state: State) -> str:
    """An answer that was held back is checked; one that was doubted is left to the frontier."""
    if state["error"]:
        return "detour"
    if "doubt" in state and state["decision"].route is Route.EXPERT:
        return "overrule"
    return "conform" if "held" in state else "end"


def after_conform(state: State) -> str:
    """Kept: the end. Broken: once more, then another road."""
    if state["error"]:
        return "detour"
    return "expert" if state["violations"] else "end"


def after_detour(state: State) -> str:
    """The next road, or the end where an answer that was held back had to do."""
    return after_decide(state) if state["error"] else "end"
