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


VARIANTS: dict[str, Callable[[Row], str | None]] = {
    "a typing error in 25 letters": lambda row: _typing(row.turns.last),
    "lower case": lambda row: row.turns.last.lower(),
    "capitals": lambda row: row.turns.last.upper(),
    "no punctuation": lambda row: unpunctuated(row.turns.last),
    "other words": lambda row: row.paraphrase,
}


def measure(decide: Decide, rows: Sequence[Row], made: Sequence[Decision]) -> Section:
    """The share of rows that take another road, for each way to write them otherwise.

    In other words are those that have a paraphrase.
    """
    rows, made = rows[:MOST], made[:MOST]
    scores, intervals, notes = {}, {}, []
    for name, write in VARIANTS.items():
        pairs = [(row, was, write(row)) for row, was in zip(rows, made, strict=True)]
        written = [(row, was, text) for row, was, text in pairs if text is not None]
        if not written:
            continue
        again = decide([replace(row.turns, last=text) for row, _, text in written])
        flips = np.array(
            [new.route is not was.route for (_, was, _), new in zip(written, again, strict=True)],
            float,
        )
        scores[name] = {"flips": float(flips.mean())}
        if len(written) < len(rows):
            notes.append(f"{name}: {len(written)} rows")
        intervals[name] = {
            "flips": metrics.interval(lambda d, f=flips: float(f[d].mean()), len(written))  # type: ignore[misc]
        }
    return Section("flips", len(rows), scores, intervals=intervals, notes=tuple(notes))
