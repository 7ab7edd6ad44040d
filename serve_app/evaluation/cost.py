"""The claim: what a successful answer costs of the hybrid stack, and of RAG-only.

A workload is three kinds of questions, each with a share. The hybrid's answers are its own, judged
by rule, at the price it was paid. RAG-only's cannot be had without a frontier model, so they are
priced as the ledger prices the baseline, and taken for right, all of them: to its advantage.
Reasoning is different: what a frontier model and a small one answered was recorded (RouterBench, Hu
et al., 2024), right or wrong and for how much, and the hybrid's router chooses between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["static", "volatile", "reasoning"]
KINDS: tuple[Kind, ...] = ("static", "volatile", "reasoning")

_DRAWS = 2000
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """The same question, answered by both stacks.

    Attributes:
        road: The hybrid's.
    """

    kind: Kind
    road: str
    usd: float
    good: bool
    rag_usd: float
    rag_good: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one kind, or of all in their shares: dollars of an answer, of a good one, and the saving.

    Attributes:
        saved: 1 - ours / RAG-only's, dollars of a good answer.
    """

    rows: int
    usd: Figure
    good: Figure
    per_good: Figure
    rag_usd: Figure
    rag_good: Figure
    rag_per_good: Figure
    saved: Figure


def summarise(pairs: Sequence[Pair], shares: Mapping[Kind, float], seed: int = 0) -> Summary:
    """Both stacks on a workload whose kinds have these shares.

    Rows are drawn again within each kind, so that the shares stay as they are.

    Raises:
        ValueError: A kind with a share has no rows.
    """
    rng = np.random.default_rng(seed)
    weighted = {kind: share for kind, share in shares.items() if share > 0}
    total = sum(weighted.values())
    means: Matrix = np.zeros((_DRAWS + 1, 4))
    for kind, share in weighted.items():
        mine = [pair for pair in pairs if pair.kind == kind]
        if not mine:
            raise ValueError(f"there are no {kind} rows, which have a share of {share:g}")
        values = np.array([(p.usd, p.good, p.rag_usd, p.rag_good) for p in mine], dtype=float)
        drawn = rng.integers(0, len(mine), (_DRAWS, len(mine)))
        # The first row is what was seen; the others are what might have been.
        means[0] += values.mean(0) * share / total
        means[1:] += values[drawn].mean(1) * share / total
    usd, good, rag_usd, rag_good = means.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ours, theirs = usd / good, rag_usd / rag_good
        saved = 1 - ours / theirs
    figures = (usd, good, ours, rag_usd, rag_good, theirs, saved)
    counted = sum(pair.kind in weighted for pair in pairs)
    return Summary(counted, *(_figure(each) for each in figures))


def _figure(values: Matrix) -> Figure:
    drawn = values[1:][np.isfinite(values[1:])]
    if not drawn.size:
        return Figure(float(values[0]), float("nan"), float("nan"))  # nothing was ever good
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Figure(float(values[0]), float(low), float(high))
