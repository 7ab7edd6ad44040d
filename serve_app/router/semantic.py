"""Queries to decisions: encoder, heads, policy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from serve_app.domain import Decision, Route
from serve_app.router.encoder import Encoder
from serve_app.router.heads import Heads, Signals, load_examples


class SemanticRouter:
    """Decides for many queries in one encoder pass. Holds no state between calls."""

    def __init__(self, encoder: Encoder, heads: Heads) -> None:
        self._encoder = encoder
        self._heads = heads

    def decide(self, queries: Sequence[str]) -> list[Decision]:
        """One decision for each query, in order."""
        started = time.perf_counter()
        signals = self._heads.signals(self._encoder.encode(queries))
        elapsed_ms = (time.perf_counter() - started) * 1000
        return [_decision(each, elapsed_ms) for each in signals]


def train(encoder: Encoder, examples: Path) -> Heads:
    """Heads fitted to a file of labelled examples (a few hundred take about a second)."""
    rows = load_examples(examples)
    return Heads.train(encoder.encode([row.query for row in rows]), rows)


def _decision(signals: Signals, latency_ms: float) -> Decision:
    route = max(signals.roads, key=lambda road: signals.roads[road])
    return Decision(
        route=route,
        scores=signals.roads,
        volatility=signals.volatility,
        complexity=signals.complexity,
        confidence=signals.roads[route],
        stage="1",
        reason=_reason(route, signals),
        latency_ms=latency_ms,
    )


def _reason(route: Route, signals: Signals) -> str:
    match route:
        case Route.KNOWLEDGE if signals.volatility >= 0.5:
            return f"the answer changes with time (volatility {signals.volatility:.2f})"
        case Route.KNOWLEDGE:
            return f"asks for a fact of the knowledge base (score {signals.roads[route]:.2f})"
        case Route.FRONTIER:
            return f"needs several steps of reasoning (complexity {signals.complexity:.2f})"
        case Route.EXPERT:
            return f"static work that the expert does well (score {signals.roads[route]:.2f})"
