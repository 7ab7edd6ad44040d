"""How good answers are in form and content, beside what they should be. Plain Python, no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serve_app.domain import Usage
from serve_app.evaluation.forms import Form
from serve_app.evaluation.metrics import ratio_interval
from serve_app.evaluation.support import Source, Support

# Every score is a ratio of sums over rows: name, numerator and denominator of a row.
SCORES = ("exact", "fields", "field_f1", "adherence", "faithfulness")


@dataclass(frozen=True, slots=True)
class Row:
    """A question with the answer it should have.

    Attributes:
        source: What the answer may be made from: the user's own turns.
    """

    id: str | int
    source: str
    reference: str


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer held against its reference.

    Attributes:
        fields: The reference's, and whether the answer has the same value.
        given: How many fields the answer has.
        violations: Of the form; None where there is none to break.
        unsupported: What the input does not say; None where the rule was not asked.
    """

    exact: bool
    fields: Mapping[str, bool]
    given: int
    violations: tuple[str, ...] | None
    unsupported: tuple[str, ...]

    def ratio(self, score: str) -> tuple[float, float]:
        right, wanted = sum(self.fields.values()), len(self.fields)
        match score:
            case "exact":
                return float(self.exact), 1.0
            case "fields":
                return right, wanted
            case "field_f1":
                return 2.0 * right, self.given + wanted
            case "adherence":
                return float(not self.violations), float(self.violations is not None)
            case _:
                return float(not self.unsupported), 1.0


@dataclass(frozen=True, slots=True)
class Way:
    """One way to answer all rows: its scores with their 95 % intervals, and what it took.

    Attributes:
        scores: Value, lower and upper end of each; those that could not be measured are left out.
        usd: Dollars for a thousand answers; None without a price.
        by_field: Share of rows whose field is right, of the rows whose reference has it.
    """

    scores: Mapping[str, tuple[float, float, float]]
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    usd: float | None
    by_field: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Report:
    """Attributes:
    ways: By name, the base's first.
    references_faithful: Share of references that the rule holds to be faithful: its ceiling.
    """

    rows: int
    base: str
    adapter: str | None
    ways: Mapping[str, Way]
    references_faithful: float
    notes: Sequence[str] = field(default_factory=list)


class Judge:
    """Holds answers against references, under one form and one rule of support."""

    def __init__(self, form: Form | None, support: Support) -> None:
        self._form = form
        self._support = support

    def judge(self, row: Row, text: str) -> Judged:
        form = self._form
        wanted = form.fields(row.reference) if form else {}
        given = form.fields(text) if form else {}
        return Judged(
            exact=_plain(text) == _plain(row.reference),
            fields={name: given.get(name) == value for name, value in wanted.items()},
            given=len(given),
            violations=tuple(form.violations(text)) if form else None,
            unsupported=tuple(self._unsupported(given, text, row)),
        )

    def faithful(self, rows: Sequence[Row]) -> float:
        """Share of the references that the rule holds to be faithful."""
        return float(np.mean([not self.judge(row, row.reference).unsupported for row in rows]))

    def _unsupported(self, fields: Mapping[str, Any], text: str, row: Row) -> list[str]:
        """Of the fields; of the whole text where it has none."""
        values = [str(value) for value in fields.values()] or [text]
        return self._support.unsupported(values, Source(row.source))


def way(judged: Sequence[Judged], usage: Usage, seconds: float, usd: float | None) -> Way:
    """Sum up one way's answers.

    Args:
        usd: Dollars for all of them.
    """
    scores = {}
    for name in SCORES:
        tops, bottoms = np.array([each.ratio(name) for each in judged], dtype=float).T
        if bottoms.sum():
            scores[name] = ratio_interval(tops, bottoms)
    return Way(
        scores=scores,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        seconds=round(seconds, 1),
        usd=None if usd is None else usd * 1000 / len(judged),
        by_field=_by_field(judged),
    )


def _by_field(judged: Sequence[Judged]) -> dict[str, float]:
    right: dict[str, list[bool]] = {}
    for each in judged:
        for name, same in each.fields.items():
            right.setdefault(name, []).append(same)
    return {name: float(np.mean(same)) for name, same in right.items()}


def _plain(text: str) -> str:
    """Blank space at the ends of lines, and at the end of all, means nothing."""
    return "\n".join(line.rstrip() for line in text.strip().split("\n"))
