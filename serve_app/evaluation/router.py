"""How good the router is on labelled rows, beside what needs no router at all (`baselines`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score

from serve_app.domain import Decision, Route
from serve_app.evaluation import baselines, flips, metrics, outcomes
from serve_app.evaluation.baselines import Labels
from serve_app.evaluation.sections import Section, Table
from serve_app.router.heads import OUT_OF_SCOPE
from serve_app.router.rows import Row
from serve_app.router.semantic import SemanticRouter
from serve_app.router.turns import Turns

_SINGLE_CALLS = 500
_BATCH = 64
_FEWEST = 10


@dataclass(frozen=True, slots=True)
class Report:
    """All that the rows' labels allow to measure.

    Attributes:
        latency: Milliseconds of one query at a time, and queries a second in batches.
    """

    sections: list[Section]
    latency: dict[str, float]


def evaluate(router: SemanticRouter, rows: Sequence[Row], tenant: str = "default") -> Report:
    """Measure a router on labelled rows (at least ten for each property)."""
    made, latency = _decide(router, rows, tenant)
    pairs = list(zip(rows, made, strict=True))
    roads = [(r, d) for r, d in pairs if r.intent in set(Route)]
    intents = [(r, d) for r, d in pairs if r.intent is not None and r.intent not in set(Route)]
    volatile = [(r, d) for r, d in pairs if r.volatile is not None]
    graded = [(r, d) for r, d in pairs if r.weak is not None and r.strong is not None]
    sections = []
    if len(roads) >= _FEWEST:
        sections.append(_roads(roads))
    if len(intents) >= _FEWEST:
        sections += _intents(intents)
    if len(volatile) >= _FEWEST and 0 < sum(r.volatile or 0 for r, _ in volatile) < len(volatile):
        sections += [_volatility(volatile), _taken(volatile)]
    sections += outcomes.measure(
        router.encoder, [row for row, _ in graded], [made for _, made in graded], _FEWEST
    )
    if sections:
        sections.append(flips.measure(partial(_decided, router, tenant), rows, made))
    return Report(sections, latency)


def _decide(
    router: SemanticRouter, rows: Sequence[Row], tenant: str
) -> tuple[list[Decision], dict[str, float]]:
    singles = []
    for row in rows[:_SINGLE_CALLS]:
        started = time.perf_counter()
        router.decide([row.turns], [tenant])
        singles.append((time.perf_counter() - started) * 1000)
    started = time.perf_counter()
    made = _decided(router, tenant, [row.turns for row in rows])
    elapsed = time.perf_counter() - started
    p50, p99 = np.percentile(singles, [50, 99])
    return made, {"p50_ms": float(p50), "p99_ms": float(p99), "per_second": len(rows) / elapsed}


def _decided(router: SemanticRouter, tenant: str, asked: Sequence[Turns]) -> list[Decision]:
    made: list[Decision] = []
    for at in range(0, len(asked), _BATCH):
        part = asked[at : at + _BATCH]
        made += router.decide(part, [tenant] * len(part))
    return made


def _roads(pairs: Sequence[tuple[Row, Decision]]) -> Section:
    truth = np.array([str(row.intent) for row, _ in pairs])
    chosen = np.array([made.route.value for _, made in pairs])
    # Whose work it is, which the scores are about, is not yet who is worth most.
    own = [max(made.scores, key=lambda road, m=made: m.scores[road]) for _, made in pairs]  # type: ignore[misc]
    sure = np.array([made.scores[road] for road, (_, made) in zip(own, pairs, strict=True)])
    hits = (truth == np.array([road.value for road in own])).astype(float)
    names = [road.value for road in Route]
    scores: Table = {"router": _label_scores(truth, chosen)}
    scores["router"]["ece"] = metrics.calibration_error(sure, hits)
    for name, guessed in baselines.guesses(truth, [row for row, _ in pairs]).items():
        scores[name] = _label_scores(truth, guessed)
    counts = confusion_matrix(truth, chosen, labels=names)
    return Section(
        "road",
        len(pairs),
        scores,
        reliability=metrics.reliability(sure, hits),
        confusion={
            name: dict(zip(names, map(int, row), strict=True))
            for name, row in zip(names, counts, strict=True)
        },
    )


def _intents(pairs: Sequence[tuple[Row, Decision]]) -> list[Section]:
    """Which declared intent, on rows that have one; and whether there is one, on all rows."""
    sections = []
    inside = [(row, made) for row, made in pairs if row.intent != OUT_OF_SCOPE]
    if len(inside) >= _FEWEST:
        truth = np.array([str(row.intent) for row, _ in inside])
        chosen = np.array([max(m.fit, key=lambda i, m=m: m.fit[i]) for _, m in inside])  # type: ignore[misc]
        sure = np.array([max(made.fit.values()) for _, made in inside])
        hits = (truth == chosen).astype(float)
        scores: Table = {"router": _label_scores(truth, chosen)}
        scores["router"]["ece"] = metrics.calibration_error(sure, hits)
        for name, guessed in baselines.guesses(truth, [row for row, _ in inside]).items():
            scores[name] = _label_scores(truth, guessed)
        bins = metrics.reliability(sure, hits)
        sections.append(Section("intent", len(inside), scores, reliability=bins))
    if 0 < len(inside) < len(pairs):
        known = np.array([float(row.intent != OUT_OF_SCOPE) for row, _ in pairs])
        sections.append(_binary("in scope", pairs, known, [made.in_scope for _, made in pairs]))
    return sections


def _volatility(pairs: Sequence[tuple[Row, Decision]]) -> Section:
    truth = np.array([float((row.volatile or 0) >= 0.5) for row, _ in pairs])
    return _binary("volatility", pairs, truth, [made.volatility for _, made in pairs])


def _taken(pairs: Sequence[tuple[Row, Decision]]) -> Section:
    """Where questions go whose answers change, and those whose answers do not."""
    scores: Table = {}
    for name, changes in (("static", False), ("changing", True)):
        made = [made for row, made in pairs if ((row.volatile or 0) >= 0.5) is changes]
        shares = {road.value: sum(m.route is road for m in made) / len(made) for road in Route}
        looked_up = [m.route is Route.KNOWLEDGE or _with_evidence(m) for m in made]
        scores[name] = {**shares, "looked up": sum(looked_up) / len(made)}
    return Section(
        "roads taken",
        len(pairs),
        scores,
        notes=("looked up: by the knowledge road, or by the frontier before it answers",),
    )


def _with_evidence(made: Decision) -> bool:
    return made.route is Route.FRONTIER and made.looks_up


def _binary(
    name: str,
    pairs: Sequence[tuple[Row, Decision]],
    truth: metrics.Vector,
    probabilities: Sequence[float],
) -> Section:
    sure = np.array(probabilities, dtype=float)
    rows = [row for row, _ in pairs]
    scores: Table = {"router": _label_scores(truth, (sure >= 0.5).astype(float))}
    scores["router"]["auc"] = float(roc_auc_score(truth, sure))
    scores["router"]["ece"] = metrics.calibration_error(sure, truth)
    for baseline, guessed in baselines.guesses(truth, rows).items():
        scores[baseline] = _label_scores(truth, guessed)
    for baseline, score in baselines.rankings(truth, rows).items():
        scores.setdefault(baseline, {})["auc"] = float(roc_auc_score(truth, score))
    return Section(name, len(pairs), scores, reliability=metrics.reliability(sure, truth))


def _label_scores(truth: Labels, chosen: Labels) -> dict[str, float]:
    return {
        "accuracy": float(accuracy_score(truth, chosen)),
        "macro_f1": float(f1_score(truth, chosen, average="macro", zero_division=0)),
        "weighted_f1": float(f1_score(truth, chosen, average="weighted", zero_division=0)),
    }
