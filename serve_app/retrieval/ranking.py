"""From what a vector database finds to the order a reader wants. Pure functions over hits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from serve_app.domain import Chunk

RRF_K = 60

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found, and what the ranking reads of it.

    Attributes:
        key: The row's key in the collection.
        time: Unix seconds at which its document was true; 0 when unknown.
        series: See `index.Row`.
        vector: Unit vector; empty where no step needs it.
    """

    key: str
    chunk: Chunk
    time: int = 0
    series: str = ""
    vector: Floats = field(default_factory=lambda: np.zeros(0, np.float32), compare=False)


def fuse(rankings: Sequence[Sequence[Hit]], weights: Sequence[float]) -> list[Hit]:
    """Weighted reciprocal rank fusion (Cormack, Clarke & Büttcher, SIGIR 2009, k = 60)."""
    scores: dict[str, float] = {}
    hits: dict[str, Hit] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, hit in enumerate(ranking, start=1):
            scores[hit.key] = scores.get(hit.key, 0.0) + weight / (RRF_K + rank)
            hits.setdefault(hit.key, hit)
    return [
        replace(hits[key], chunk=replace(hits[key].chunk, score=score))
        for key, score in sorted(scores.items(), key=lambda pair: -pair[1])
    ]


def recent_first(hits: Sequence[Hit], now: float, half_life_s: float) -> list[Hit]:
    """Lower the score of what is old, to half of it at most; what has no time counts as old.

    The bonus of what is new halves with the first `half_life_s`, and then ever more slowly: last
    week comes before the year before, whatever the half-life.
    """

    def weighed(hit: Hit) -> Hit:
        age = max(0.0, now - hit.time)
        weight = 0.5 + 0.5 / (1 + math.log2(1 + age / half_life_s))
        score = hit.chunk.score
        # To lower a score below zero is to take it further away.
        lowered = score * weight if score >= 0 else score / weight
        return replace(hit, chunk=replace(hit.chunk, score=lowered))

    return sorted(map(weighed, hits), key=lambda hit: -hit.chunk.score)


def diverse(hits: Sequence[Hit], k: int, diversity: float) -> list[Hit]:
    """The first `k` by maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998).

    Args:
        diversity: 0 keeps the order; 1 asks only for what is unlike that chosen already.
    """
    rest = list(hits)
    chosen: list[Hit] = []
    # A cross-encoder's scores are logits: they may all be below zero, and the best is still 1 here.
    least = min((hit.chunk.score for hit in rest), default=0.0)
    floor = min(0.0, least)
    span = max((hit.chunk.score for hit in rest), default=0.0) - floor or 1.0

    def gain(hit: Hit) -> float:
        likeness = max((float(hit.vector @ other.vector) for other in chosen), default=0.0)
        return (1 - diversity) * (hit.chunk.score - floor) / span - diversity * likeness

    while rest and len(chosen) < k:
        following = max(rest, key=gain)
        rest.remove(following)
        chosen.append(following)
    return chosen
