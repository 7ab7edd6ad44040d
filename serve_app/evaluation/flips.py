"""How often a decision changes when nothing of what is asked does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from serve_app.domain import Decision
from serve_app.evaluation import metrics
from serve_app.evaluation.sections import Section
from serve_app.router.noise import mistyped, unpunctuated
from serve_app.router.rows import Row
from serve_app.router.turns import Turns

MOST = 500  # rows that are decided again

Decide = Callable[[Sequence[Turns]], Sequence[Decision]]


def _typing(text: str) -> str:
    return mistyped(text, random.Random(text))  # noqa: S311  # the same every time


VARIANTS: dict[str, Callable[[str], str]] = {
    "a typing error in 25 letters": _typing,
    "lower case": str.lower,
    "capitals": str.upper,
    "no punctuation": unpunctuated,
}


def measure(decide: Decide, rows: Sequence[Row], made: Sequence[Decision]) -> Section:
    """The share of rows that take another road, for each way to write them otherwise."""
    rows, made = rows[:MOST], made[:MOST]
    scores, intervals = {}, {}
    for name, write in VARIANTS.items():
        written = [replace(row.turns, last=write(row.turns.last)) for row in rows]
        again = decide(written)
        flips = np.array([a.route is not b.route for a, b in zip(made, again, strict=True)], float)
        scores[name] = {"flips": float(flips.mean())}
        intervals[name] = {
            "flips": metrics.interval(lambda d, f=flips: float(f[d].mean()), len(rows))  # type: ignore[misc]
        }
    return Section("flips", len(rows), scores, intervals=intervals)
