"""What is known of the roads, fitted to outcomes.

Penalised maximum likelihood: parameters leave their prior only as far as the outcomes move them
(a Gaussian prior, so that a few rows change little and many decide).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from serve_app.domain import Route
from serve_app.router.outcomes import KINDS, Outcomes, RoadOutcomes

Vector = npt.NDArray[np.float64]

_PRIOR_SD = 1.0  # log-odds


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one road did with one query.

    Attributes:
        kinds: Of the query, as `Outcomes.kinds` gives them.
        hardness: The logit of its complexity.
        success: From 0 to 1.
        tokens: Of the answer, where they were counted.
        weight: How much it counts.
    """

    road: Route
    kinds: Mapping[str, float]
    hardness: float
    success: float
    tokens: int | None = None
    weight: float = 1.0
    source: str = ""


def fit(prior: Outcomes, outcomes: Sequence[Outcome], spread: float = _PRIOR_SD) -> Outcomes:
    """The outcomes' say, from a prior on.

    Args:
        spread: Standard deviation of the prior, in log-odds.
    """
    roads = {}
    for road, known in prior.roads.items():
        mine = [each for each in outcomes if each.road is road]
        roads[road] = _fitted(known, mine, spread) if mine else known
    counted = Counter(each.source for each in outcomes)
    return Outcomes(
        roads=roads,
        sharpness=prior.sharpness,
        learned_from={**prior.learned_from, **dict(sorted(counted.items()))},
    )


def _fitted(prior: RoadOutcomes, outcomes: Sequence[Outcome], spread: float) -> RoadOutcomes:
    kinds = np.array([[each.kinds[kind] for kind in KINDS] for each in outcomes])
    hardness = np.array([each.hardness for each in outcomes])
    success = np.array([each.success for each in outcomes])
    weights = np.array([each.weight for each in outcomes])
    slope = _slope(prior.slope, outcomes, spread)
    start = np.array([prior.offsets[kind] for kind in KINDS])

    def loss(at: Vector) -> tuple[float, Vector]:
        inside = expit(at + slope * hardness[:, None])
        likely = np.clip((kinds * inside).sum(1), 1e-6, 1 - 1e-6)
        steep = _steepness(likely, success, weights)
        moved = (at - start) / spread**2
        slopes = (steep[:, None] * kinds * inside * (1 - inside)).sum(0)
        return _missed(likely, success, weights) + float((at - start) @ moved) / 2, slopes + moved

    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    counted = [each.tokens for each in outcomes if each.tokens is not None]
    return RoadOutcomes(
        offsets={kind: round(float(value), 3) for kind, value in zip(KINDS, found, strict=True)},
        slope=round(slope, 3),
        unread=prior.unread,
        completion_tokens=round(float(np.mean(counted)), 1) if counted else prior.completion_tokens,
        added_tokens=prior.added_tokens,
    )


def _slope(prior: float, outcomes: Sequence[Outcome], spread: float) -> float:
    """How much harder queries fail more, told within each source alone.

    Sources differ in how hard they are for other reasons than the wording shows.
    """
    sources = sorted({each.source for each in outcomes})
    own = np.array([[each.source == source for source in sources] for each in outcomes], float)
    hardness = np.array([each.hardness for each in outcomes])
    success = np.array([each.success for each in outcomes])
    weights = np.array([each.weight for each in outcomes])

    def loss(at: Vector) -> tuple[float, Vector]:
        likely = np.clip(expit(own @ at[:-1] + at[-1] * hardness), 1e-6, 1 - 1e-6)
        steep = weights * (likely - success)
        moved = np.array([*at[:-1] / 100, (at[-1] - prior) / spread**2])
        missed = _missed(likely, success, weights)
        missed += float(at[:-1] @ at[:-1]) / 200 + (at[-1] - prior) ** 2 / spread**2 / 2
        return missed, np.array([*(own.T @ steep), steep @ hardness]) + moved

    start = np.array([*[0.0] * len(sources), prior])
    return float(minimize(loss, start, jac=True, method="L-BFGS-B").x[-1])


def _missed(likely: Vector, success: Vector, weights: Vector) -> float:
    """Cross-entropy."""
    return float(-weights @ (success * np.log(likely) + (1 - success) * np.log(1 - likely)))


def _steepness(likely: Vector, success: Vector, weights: Vector) -> Vector:
    """Its derivative by the probability."""
    return np.asarray(weights * (likely - success) / (likely * (1 - likely)))
