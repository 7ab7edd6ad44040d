"""Recorded outcomes of a small and a frontier model: does the router's score tell them apart, and
what does it save?

What routes is the difference of what the frontier and the expert are held to be worth for a query
(`Decision.terms`). It stands beside the complexity head alone, length, TF-IDF, k nearest neighbours
over the outcomes, and an oracle that knows them. Where costs were recorded, the router's choice
between the two models stands beside each of them alone and beside a random mix of the same cost: a
router that does not beat the mix is worth nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from serve_app.domain import Decision, Route
from serve_app.evaluation import baselines, metrics
from serve_app.evaluation.metrics import Vector
from serve_app.evaluation.sections import Section, Table
from serve_app.router.encoder import Encoder
from serve_app.router.heads import FIT_LAYERS, dense
from serve_app.router.rows import Row

Rows = npt.NDArray[np.int64]

_TEXTS = 512  # encoded together
_BY_ROWS = "tf-idf and neighbours are cross-validated on these very rows, which flatters them"


def measure(
    encoder: Encoder, rows: Sequence[Row], made: Sequence[Decision], fewest: int
) -> list[Section]:
    """What can be said of rows with both outcomes: nothing without a gap between the models."""
    weak = np.array([float(row.weak or 0) for row in rows])
    strong = np.array([float(row.strong or 0) for row in rows])
    if len(rows) < fewest or strong.sum() <= weak.sum():
        return []
    margins = np.array([margin(each) for each in made])
    near = baselines.neighbours(_vectors(encoder, rows), strong - weak)
    sections = [_gap(rows, made, margins, near, weak, strong)]
    priced = [i for i, row in enumerate(rows) if row.costs is not None]
    if len(priced) >= fewest:
        costs = np.array([rows[i].costs for i in priced], dtype=float)
        scores = {"router": margins[priced], "neighbours": near[priced]}
        sections.append(_costs(scores, weak[priced], strong[priced], costs))
    return sections


def margin(made: Decision) -> float:
    """By how much the frontier is held to be worth more than the expert, in dollars."""
    return made.terms[Route.FRONTIER].value_usd - made.terms[Route.EXPERT].value_usd


def _vectors(encoder: Encoder, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    asks = [row.turns.ask for row in rows]
    parts = [
        dense(encoder.encode(asks[at : at + _TEXTS]), FIT_LAYERS)
        for at in range(0, len(asks), _TEXTS)
    ]
    return np.concatenate(parts)


def _gap(
    rows: Sequence[Row],
    made: Sequence[Decision],
    margins: Vector,
    near: Vector,
    weak: Vector,
    strong: Vector,
) -> Section:
    """How much of the gap between the models each score recovers, by share of strong calls."""
    gap = ((strong > 0.5) & (weak <= 0.5)).astype(float)
    complexity = np.array([each.complexity for each in made])
    scores: Table = {}
    intervals = {}
    curves = {}
    ranked = {
        "router": margins,
        "complexity": complexity,
        **baselines.rankings(gap, rows),
        "neighbours": near,
        "oracle": strong - weak,
    }
    for name, score in ranked.items():
        scores[name] = {
            "apgr": metrics.apgr(score, weak, strong),
            "cpt50": metrics.call_share(score, weak, strong, 0.5),
            "cpt80": metrics.call_share(score, weak, strong, 0.8),
        }

        def again(drawn: Rows, score: Vector = score) -> float:
            if strong[drawn].sum() <= weak[drawn].sum():
                return float("nan")
            return metrics.apgr(score[drawn], weak[drawn], strong[drawn])

        intervals[name] = {"apgr": metrics.interval(again, len(rows))}
        calls, recovered = metrics.gap_recovered(score, weak, strong)
        curves[name] = (calls.tolist(), recovered.tolist())
    scores["complexity"]["ece"] = metrics.calibration_error(complexity, gap)
    return Section(
        "outcomes",
        len(rows),
        scores,
        intervals=intervals,
        reliability=metrics.reliability(complexity, gap),
        curves=curves,
        notes=(_BY_ROWS,),
    )


def _costs(scores: Mapping[str, Vector], weak: Vector, strong: Vector, costs: Vector) -> Section:
    """Quality and cost of each way to choose between the two models.

    Args:
        scores: The router's, positive where it takes the frontier; others take as many calls.
        costs: Shape (rows, 2), dollars: of the weak and of the strong model's answer.
    """
    taken = scores["router"] > 0
    ways: dict[str, Vector] = {
        "small model": np.zeros(len(weak)),
        "frontier": np.ones(len(weak)),
        "router": taken.astype(float),
    }
    for name, score in scores.items():
        if name != "router":
            ways[name] = _top(score, int(taken.sum()))
    ways["oracle"] = (strong > weak).astype(float)
    cheap, dear = costs.sum(0)
    table: Table = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    for name, way in ways.items():
        right, paid = _chosen(way, weak, strong), _chosen(way, *costs.T)
        table[name] = {
            "quality": float(right.mean()),
            "usd_per_1000": float(paid.mean() * 1000),
            "strong_calls": float(way.mean()),
        }

        def ahead(drawn: Rows, right: Vector = right, paid: Vector = paid) -> float:
            return _ahead(right[drawn], paid[drawn], weak[drawn], strong[drawn], costs[drawn])

        intervals[name] = {
            "quality": metrics.interval(lambda d, r=right: float(r[d].mean()), len(weak))  # type: ignore[misc]
        }
        if 0 < way.mean() < 1 and dear > cheap:
            everything = np.arange(len(weak))
            table[name]["above_mix"] = ahead(everything)
            intervals[name]["above_mix"] = metrics.interval(ahead, len(weak))
    return Section(
        "cost and quality",
        len(weak),
        table,
        intervals=intervals,
        notes=(
            "above_mix: quality less that of a random mix of the two models that costs the same",
            "neighbours take as many calls of the frontier as the router does",
        ),
    )


def _ahead(right: Vector, paid: Vector, weak: Vector, strong: Vector, costs: Vector) -> float:
    """Quality above that of calls to the strong model in random order, at the same cost; NaN where
    the strong model costs no more."""
    cheap, dear = costs.sum(0)
    if dear <= cheap:
        return float("nan")
    share = (paid.sum() - cheap) / (dear - cheap)
    return float(right.mean() - (weak.mean() + share * (strong.mean() - weak.mean())))


def _chosen(way: Vector, weak: Vector, strong: Vector) -> Vector:
    return np.asarray(np.where(way > 0, strong, weak), dtype=float)


def _top(score: Vector, count: int) -> Vector:
    chosen = np.zeros(len(score))
    chosen[np.argsort(-score, kind="stable")[:count]] = 1.0
    return chosen
