"""What an evaluation of the router says of one property."""

from __future__ import annotations

from dataclasses import dataclass, field

Table = dict[str, dict[str, float]]
Intervals = dict[str, dict[str, tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Section:
    """What was measured of one property: a row of scores for the router and each baseline.

    Attributes:
        intervals: 95 % bootstrap intervals of some of the scores.
        reliability: Mean probability, observed frequency and row count of each bin.
        confusion: Row counts by true and by predicted label.
        curves: Share of strong calls and share of the gap recovered, by method.
        notes: What has to be known to read it.
    """

    name: str
    rows: int
    scores: Table
    intervals: Intervals = field(default_factory=dict)
    reliability: list[tuple[float, float, int]] | None = None
    confusion: dict[str, dict[str, int]] | None = None
    curves: dict[str, tuple[list[float], list[float]]] | None = None
    notes: tuple[str, ...] = ()
