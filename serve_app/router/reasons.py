"""Why a road was chosen, in words for people."""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.domain import Route, Term
from serve_app.router.heads import Signals


def why(
    route: Route,
    kinds: Mapping[str, float],
    signals: Signals,
    terms: Mapping[Route, Term],
) -> str:
    """One sentence: what the query seems to be, and why this road then."""
    if signals.read < 0.5:
        return (
            f"the router's encoder does not read this script ({signals.read:.0%} of the "
            f"letters): {route.value} has the best expected value when little is known"
        )
    kind = max(kinds, key=lambda name: kinds[name])
    text = f"{_about(kind, signals)}: {_chosen(route, kind)} ({terms[route].success:.2f} to succeed"
    surest = max(terms, key=lambda road: terms[road].success)
    if surest is not route and terms[surest].success - terms[route].success > 0.05:
        return f"{text}; {surest.value}, {terms[surest].success:.2f}, is not worth its price)"
    return f"{text})"


def _about(kind: str, signals: Signals) -> str:
    match kind:
        case "task":
            return "work on what is given"
        case "reasoning":
            return f"needs several steps of reasoning (complexity {signals.complexity:.2f})"
        case "covered" if signals.coverage is None:
            return "whether the knowledge base speaks of it is not known"
        case "covered":
            return f"the knowledge base speaks of it (coverage {signals.coverage or 0:.2f})"
        case "changing":
            return f"the answer changes with time (volatility {signals.volatility:.2f})"
        case _:
            return "asks for what a model may know by itself"


def _chosen(route: Route, kind: str) -> str:
    match route:
        case Route.KNOWLEDGE if kind == "changing":
            return "nobody here is known to know it, and knowledge says so"
        case Route.KNOWLEDGE:
            return "looked up"
        case Route.FRONTIER:
            return "for the frontier"
        case Route.EXPERT:
            return "for the expert"
