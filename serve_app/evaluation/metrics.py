"""Scores that several layers share; arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


def calibration_error(probabilities: Vector, outcomes: Vector, bins: int = 10) -> float:
    """Expected calibration error (Guo et al., 2017): mean gap of probability and frequency."""
    return sum(
        count * abs(confidence - frequency)
        for confidence, frequency, count in reliability(probabilities, outcomes, bins)
    ) / max(1, len(outcomes))


def reliability(
    probabilities: Vector, outcomes: Vector, bins: int = 10
) -> list[tuple[float, float, int]]:
    """Mean probability, observed frequency and row count of each bin that is not empty."""
    places = np.minimum((probabilities * bins).astype(int), bins - 1)
    return [
        (float(probabilities[mine].mean()), float(outcomes[mine].mean()), int(mine.sum()))
        for place in range(bins)
        if (mine := places == place).any()
    ]


def gap_recovered(scores: Vector, weak: Vector, strong: Vector) -> tuple[Vector, Vector]:
    """The cost-quality curve of a router (RouteLLM, Ong et al., 2024).

    Args:
        scores: Higher goes to the strong model first.
        weak: Share of right answers of the weak model, row by row; `strong`: of the strong one.

    Returns:
        Shares of calls to the strong model, from 0 to 1, and the share of the quality gap that
        each recovers. Rows with equal scores count as if in random order.
    """
    gains = strong - weak
    if gains.sum() <= 0:
        raise ValueError("the strong model is not better than the weak one on these rows")
    order = np.argsort(-scores, kind="stable")
    _, groups, counts = np.unique(-scores[order], return_inverse=True, return_counts=True)
    smooth = (np.bincount(groups, weights=gains[order]) / counts)[groups]
    calls = np.linspace(0, 1, len(gains) + 1)
    return calls, np.concatenate([[0.0], np.cumsum(smooth)]) / gains.sum()


def apgr(scores: Vector, weak: Vector, strong: Vector) -> float:
    """Average performance gap recovered: the area under `gap_recovered`; chance is .5."""
    calls, recovered = gap_recovered(scores, weak, strong)
    return float(np.trapezoid(recovered, calls))


def call_share(scores: Vector, weak: Vector, strong: Vector, target: float) -> float:
    """CPT: the least share of strong calls that recovers `target` of the quality gap."""
    calls, recovered = gap_recovered(scores, weak, strong)
    return float(calls[np.argmax(recovered >= target - 1e-9)])


def paired_p(left: Vector, right: Vector, rounds: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the difference of two means over the same rows, by paired randomisation.

    Under the null hypothesis each row's two values might as well be exchanged (Smucker, Allan &
    Carterette, CIKM 2007).
    """
    differences = left - right
    signs = np.random.default_rng(seed).integers(0, 2, (rounds, len(differences)), dtype=np.int8)
    chance = np.abs((2.0 * signs - 1.0) @ differences)
    # Not quite `>=`: the same sum in another order differs in its last digits.
    as_large = np.sum(chance >= np.abs(differences.sum()) * (1 - 1e-12))
    return float((as_large + 1) / (rounds + 1))


def interval(
    statistic: Callable[[npt.NDArray[np.int64]], float], rows: int, draws: int = 300, seed: int = 0
) -> tuple[float, float]:
    """The 95 % bootstrap interval of a statistic (Efron, 1979).

    Args:
        statistic: Of the rows whose numbers it is given, each as often as it was drawn; NaN where
            they have none.
    """
    rng = np.random.default_rng(seed)
    found = [statistic(rng.integers(0, rows, rows)) for _ in range(draws)]
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return float(low), float(high)


def ratio_interval(
    tops: Vector, bottoms: Vector, seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """A ratio of sums over rows, and its 95 % bootstrap interval over rows drawn again.

    Args:
        tops: What counts, row by row; `bottoms`: out of how much.

    Returns:
        The ratio, its lower and its upper end; NaN where there is nothing to divide by.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(tops), (draws, len(tops)))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = tops.sum() / bottoms.sum()
        low, high = np.nanpercentile(tops[drawn].sum(1) / bottoms[drawn].sum(1), (2.5, 97.5))
    return float(ratio), float(low), float(high)
