"""How good the router is on labelled rows, beside what needs no router at all.

Baselines: the most frequent label, prompt length alone, and TF-IDF with logistic regression. The
last one is cross-validated on the very rows that are measured, which flatters it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline

from serve_app.domain import Decision, Route
from serve_app.evaluation import metrics
from serve_app.router.heads import OUT_OF_SCOPE
from serve_app.router.rows import Row
from serve_app.router.semantic import SemanticRouter

_SINGLE_CALLS = 500
_BATCH = 64
_FEWEST = 10

Labels = npt.NDArray[Any]
Table = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Section:
    """What was measured of one property: a row of scores for the router and each baseline.

    Attributes:
        reliability: Mean probability, observed frequency and row count of each bin.
        confusion: Row counts by true and by predicted label.
        curves: Share of strong calls and share of the gap recovered, by method.
    """

    name: str
    rows: int
    scores: Table
    reliability: list[tuple[float, float, int]] | None = None
    confusion: dict[str, dict[str, int]] | None = None
    curves: dict[str, tuple[list[float], list[float]]] | None = None


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
    outcomes = [(r, d) for r, d in pairs if r.weak is not None and r.strong is not None]
    sections = []
    if len(roads) >= _FEWEST:
        sections.append(_roads(roads))
    if len(intents) >= _FEWEST:
        sections += _intents(intents)
    if len(volatile) >= _FEWEST and 0 < sum(r.volatile or 0 for r, _ in volatile) < len(volatile):
        sections.append(_volatility(volatile))
    # Without a gap there is no share of it to recover.
    gap = sum((row.strong or 0) - (row.weak or 0) for row, _ in outcomes)
    if len(outcomes) >= _FEWEST and gap > 0:
        sections.append(_complexity(outcomes))
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
    made: list[Decision] = []
    for at in range(0, len(rows), _BATCH):
        part = [row.turns for row in rows[at : at + _BATCH]]
        made += router.decide(part, [tenant] * len(part))
    elapsed = time.perf_counter() - started
    p50, p99 = np.percentile(singles, [50, 99])
    return made, {"p50_ms": float(p50), "p99_ms": float(p99), "per_second": len(rows) / elapsed}


def _roads(pairs: Sequence[tuple[Row, Decision]]) -> Section:
    truth = np.array([str(row.intent) for row, _ in pairs])
    chosen = np.array([made.route.value for _, made in pairs])
    sure = np.array([made.confidence for _, made in pairs])
    names = [road.value for road in Route]
    scores: Table = {"router": _label_scores(truth, chosen)}
    scores["router"]["ece"] = metrics.calibration_error(sure, (truth == chosen).astype(float))
    for name, guessed in _guesses(truth, [row for row, _ in pairs]).items():
        scores[name] = _label_scores(truth, guessed)
    counts = confusion_matrix(truth, chosen, labels=names)
    return Section(
        "road",
        len(pairs),
        scores,
        reliability=metrics.reliability(sure, (truth == chosen).astype(float)),
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
        for name, guessed in _guesses(truth, [row for row, _ in inside]).items():
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
    for baseline, guessed in _guesses(truth, rows).items():
        scores[baseline] = _label_scores(truth, guessed)
    for baseline, score in _rankings(truth, rows).items():
        scores.setdefault(baseline, {})["auc"] = float(roc_auc_score(truth, score))
    return Section(name, len(pairs), scores, reliability=metrics.reliability(sure, truth))


def _complexity(pairs: Sequence[tuple[Row, Decision]]) -> Section:
    rows = [row for row, _ in pairs]
    weak = np.array([float(row.weak or 0) for row in rows])
    strong = np.array([float(row.strong or 0) for row in rows])
    gap = ((strong > 0.5) & (weak <= 0.5)).astype(float)
    sure = np.array([made.complexity for _, made in pairs])
    scores: Table = {}
    curves = {}
    for name, score in {"router": sure, **_rankings(gap, rows)}.items():
        scores[name] = {
            "apgr": metrics.apgr(score, weak, strong),
            "cpt50": metrics.call_share(score, weak, strong, 0.5),
            "cpt80": metrics.call_share(score, weak, strong, 0.8),
        }
        calls, recovered = metrics.gap_recovered(score, weak, strong)
        curves[name] = (calls.tolist(), recovered.tolist())
    scores["router"]["ece"] = metrics.calibration_error(sure, gap)
    return Section(
        "complexity",
        len(pairs),
        scores,
        reliability=metrics.reliability(sure, gap),
        curves=curves,
    )


def _label_scores(truth: Labels, chosen: Labels) -> dict[str, float]:
    return {
        "accuracy": float(accuracy_score(truth, chosen)),
        "macro_f1": float(f1_score(truth, chosen, average="macro", zero_division=0)),
        "weighted_f1": float(f1_score(truth, chosen, average="weighted", zero_division=0)),
    }


def _guesses(truth: Labels, rows: Sequence[Row]) -> dict[str, Labels]:
    """The labels that the baselines would give."""
    majority = Counter(truth.tolist()).most_common(1)[0][0]
    guesses: dict[str, Labels] = {"majority": np.full(len(truth), majority)}
    if (folds := _folds(truth)) is not None:
        lengths = np.log1p([[len(row.turns.last)] for row in rows])
        model = LogisticRegression(max_iter=1000)
        guesses["length"] = cross_val_predict(model, lengths, truth, cv=folds)
        texts = [row.turns.last for row in rows]
        guesses["tf-idf"] = cross_val_predict(_tfidf(), texts, truth, cv=folds)
    return guesses


def _rankings(truth: Labels, rows: Sequence[Row]) -> dict[str, metrics.Vector]:
    """Scores of the baselines, higher for a truth of 1."""
    rankings = {
        "random": np.zeros(len(truth)),
        "length": np.array([float(len(row.turns.last)) for row in rows]),
    }
    if (folds := _folds(truth)) is not None:
        texts = [row.turns.last for row in rows]
        shares = cross_val_predict(_tfidf(), texts, truth, cv=folds, method="predict_proba")
        rankings["tf-idf"] = shares[:, 1]
    return rankings


def _folds(truth: Labels) -> StratifiedKFold | None:
    """Five folds, or none when some label is too rare for them."""
    if min(Counter(truth.tolist()).values()) < 5:
        return None
    return StratifiedKFold(5, shuffle=True, random_state=0)


def _tfidf() -> Pipeline:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000))
