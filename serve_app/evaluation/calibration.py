"""What outcomes of a team's own queries make of the router, measured on queries left out.

Each fifth of the queries is decided by outcomes that were fitted to the others. Beside the router
stand each road alone, a random mix of the roads at the same cost, and an oracle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.domain import Route
from serve_app.router.heads import Signals
from serve_app.router.outcomes import Outcomes
from serve_app.router.training.outcomes import Outcome, fit

_PARTS = 5
_DRAWS = 1000
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Query:
    """A query that every road was asked.

    Attributes:
        kinds: Probability of each (`router.outcomes`), as the router told them; `complexity` and
            `read`, from 0 to 1, likewise.
        worth_usd: Of a right answer.
        costs: Expected of each road, dollars.
        success: Of each road's answer, 0 to 1.
        usd: What each road's answer cost.
    """

    kinds: Mapping[str, float]
    complexity: float
    read: float
    worth_usd: float
    costs: Mapping[Route, float]
    success: Mapping[Route, float]
    usd: Mapping[Route, float]

    def choice(self, outcomes: Outcomes) -> Route:
        """The road of best expected value."""
        signals = Signals({}, 1.0, 0.0, self.complexity, self.read)
        return max(
            self.success,
            key=lambda road: (
                outcomes.success(road, self.kinds, signals) * self.worth_usd - self.costs[road]
            ),
        )


@dataclass(frozen=True, slots=True)
class Way:
    """A way to choose roads: mean success with its 95 % bootstrap interval, mean dollars, and how
    many queries go to each road."""

    success: float
    low: float
    high: float
    usd: float
    roads: Mapping[str, int]


def compare(
    prior: Outcomes, queries: Sequence[Query], outcomes: Sequence[Sequence[Outcome]]
) -> dict[str, Way]:
    """All ways side by side.

    Args:
        outcomes: Of each query.
    """
    before = [query.choice(prior) for query in queries]
    after = list(before)
    for part in range(min(_PARTS, len(queries))):
        others = [each for at, its in enumerate(outcomes) if at % _PARTS != part for each in its]
        fitted = fit(prior, others)
        for at in range(part, len(queries), _PARTS):
            after[at] = queries[at].choice(fitted)
    roads = [road for road in Route if all(road in query.success for query in queries)]
    best = [max(q.success, key=lambda r, q=q: (q.success[r], -q.usd[r])) for q in queries]  # type: ignore[misc]
    ways = {"router before": _way(queries, before), "router after": _way(queries, after)}
    ways |= {f"{road} alone": _way(queries, [road] * len(queries)) for road in roads}
    if mixed := _mix(ways["router after"].usd, [ways[f"{road} alone"] for road in roads]):
        ways["random mix of equal cost"] = mixed
    return ways | {"oracle": _way(queries, best)}


def _way(queries: Sequence[Query], chosen: Sequence[Route]) -> Way:
    success = np.array([q.success[road] for q, road in zip(queries, chosen, strict=True)])
    usd = np.array([q.usd[road] for q, road in zip(queries, chosen, strict=True)])
    drawn = np.random.default_rng(0).integers(0, len(success), (_DRAWS, len(success)))
    low, high = np.percentile(success[drawn].mean(1), (2.5, 97.5))
    counts = {road.value: sum(each is road for each in chosen) for road in Route}
    return Way(float(success.mean()), float(low), float(high), float(usd.mean()), counts)


def _mix(usd: float, alone: Sequence[Way]) -> Way | None:
    """The best that tossing a coin between two roads gets for so much; none if all cost more."""
    found: Way | None = None
    for cheap in alone:
        for dear in alone:
            if not cheap.usd <= usd or dear.usd < cheap.usd:
                continue
            share = min(1.0, (usd - cheap.usd) / (dear.usd - cheap.usd or 1.0))
            one, two = (1 - share), share
            way = Way(
                one * cheap.success + two * dear.success,
                one * cheap.low + two * dear.low,
                one * cheap.high + two * dear.high,
                one * cheap.usd + two * dear.usd,
                {},
            )
            found = way if found is None or way.success > found.success else found
    return found
