"""What was spent, on what, and what a *successful* answer cost.

Money comes from the calls that were made, so that it is what the counters say; an answer whose
process died is in it with what its calls took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, literal_column, select

from serve_app.domain import WARM_UP
from serve_app.ledger import tables
from serve_app.ledger.database import Database
from serve_app.ledger.limits import EACH, Limit, Payer, periods


class By(StrEnum):
    """What answers are told apart by; columns of theirs."""

    DAY = "day"
    ROUTE = "route"
    TENANT = "tenant"
    MODEL = "model"
    KEY = "api_key"


_NONE: ColumnElement[str] = literal_column("'–'")  # a parameter would be another one in GROUP BY
_answers, _calls = tables.answers.c, tables.calls.c


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open, in Unix seconds."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Line:
    """A group of answers.

    Attributes:
        group: What they have in common, in the order asked for.
        asked: Questions. What other requests cost, such as searches, is in `usd` all the same.
        answered: Those that came to their end; the others failed, were left, or were lost.
        good, bad: Of those answered, how many were judged so.
        usd: What all of them cost, failures and losses included.
        baseline_usd, all_frontier_usd: What other stacks would have taken for those answered.
    """

    group: tuple[str, ...]
    asked: int
    answered: int
    good: int
    bad: int
    degraded: int
    usd: float
    baseline_usd: float
    all_frontier_usd: float

    @property
    def success(self) -> float | None:
        """The share of judged answers that were good; `None` before anybody judged."""
        judged = self.good + self.bad
        return self.good / judged if judged else None

    @property
    def usd_per_success(self) -> float | None:
        """Dollars of an answer that was good, as far as the judged ones speak for all."""
        share = 1.0 if self.success is None else self.success
        successes = self.answered * share
        return self.usd / successes if successes else None

    @property
    def baseline_usd_per_answer(self) -> float | None:
        """Dollars of a RAG-only answer. As if each were good, which is to its advantage."""
        return self.baseline_usd / self.answered if self.answered else None

    def public(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "group": list(self.group),
            "asked": self.asked,
            "answered": self.answered,
            "good": self.good,
            "bad": self.bad,
            "degraded": self.degraded,
            "usd": round(self.usd, 9),
            "baseline_usd": round(self.baseline_usd, 9),
            "all_frontier_usd": round(self.all_frontier_usd, 9),
            "success": self.success,
            "usd_per_success": self.usd_per_success,
        }


@dataclass(frozen=True, slots=True)
class Left:
    """What a limit leaves; dollars are `usd`, and the house's are told to nobody."""

    of: str
    per: str
    unit: str
    limit: float
    used: float
    held: float


async def spend(
    database: Database, span: Span, by: Sequence[By] = (), *, tenant: str | None = None
) -> list[Line]:
    """Answers that began in a span of time, in groups, sorted by them."""
    during = (_answers.started_at >= span.start) & (_answers.started_at < span.end)
    if tenant is not None:
        # The house's own warm-up asks as somebody, but on nobody's behalf.
        during &= (_answers.tenant == tenant) & (_answers.api_key != WARM_UP)
    group = [func.coalesce(_answers[name], _NONE).label(name) for name in by]
    ok = _answers.status == "ok"
    counted = select(
        *group,
        _count(tables.is_question).label("asked"),
        _count(ok).label("answered"),
        _count(ok & _answers.good.is_(True)).label("good"),
        _count(ok & _answers.good.is_(False)).label("bad"),
        _count(ok & (_answers.degraded != "")).label("degraded"),
        func.sum(case((ok, _answers.baseline_nanos), else_=0)).label("baseline"),
        func.sum(case((ok, _answers.all_frontier_nanos), else_=0)).label("all_frontier"),
    )
    paid = select(*group, func.sum(_calls.cost_nanos).label("nanos"))
    paid = paid.select_from(tables.calls.join(tables.answers, _calls.answer_id == _answers.id))
    counted = counted.where(during).group_by(*group).order_by(*group)
    paid = paid.where(during).group_by(*group)

    def both(connection: Connection) -> tuple[Sequence[Any], Sequence[Any]]:
        return connection.execute(counted).all(), connection.execute(paid).all()

    lines, spent = await database.read(both)
    costs = {tuple(row[: len(by)]): row.nanos for row in spent}
    return [
        Line(
            group=tuple(row[: len(by)]),
            asked=row.asked or 0,
            answered=row.answered or 0,
            good=row.good or 0,
            bad=row.bad or 0,
            degraded=row.degraded or 0,
            usd=int(costs.get(tuple(row[: len(by)])) or 0) / 1e9,
            baseline_usd=int(row.baseline or 0) / 1e9,
            all_frontier_usd=int(row.all_frontier or 0) / 1e9,
        )
        for row in lines
        if row.asked or costs.get(tuple(row[: len(by)]))
    ]


async def left(
    database: Database, limits: Sequence[Limit], payer: Payer, moment: float
) -> list[Left]:
    """What the limits of a key and its tenant leave at a time."""
    scopes = payer.scopes[1:]
    covering = [(each, scope) for each in limits for scope in scopes if each.covers(scope)]
    return [each for _, each in await _left(database, covering, moment)]


async def left_of_named(
    database: Database, limits: Sequence[Limit], moment: float
) -> list[tuple[str, Left]]:
    """What is left of the limits that have one holder, each with its name: `house`, `tenant:acme`,
    `key:acme/ci`. Of those that everybody has for themselves there is no end.
    """
    named = [(each, each.scope) for each in limits if each.scope not in EACH]
    found = await _left(database, named, moment)
    return [(scope.replace("\x1f", "/"), each) for scope, each in found]


async def _left(
    database: Database, covering: Sequence[tuple[Limit, str]], moment: float
) -> list[tuple[str, Left]]:
    """What limits leave of the counters of scopes, and of which scope."""
    now = periods(moment)
    counters = tables.counters.c
    chosen = select(tables.counters).where(
        counters.scope.in_({scope for _, scope in covering}), counters.period.in_(now.values())
    )
    rows = await database.read(lambda connection: connection.execute(chosen).mappings().all())
    known = {(row["scope"], row["period"]): row for row in rows}
    found = []
    for limit, scope in covering:
        row: Mapping[Any, Any] = known.get((scope, now[limit.per]), {})
        for unit, name, scale in (
            ("requests", "requests", 1.0),
            ("tokens", "tokens", 1.0),
            ("nanos", "usd", 1e9),
        ):
            most = getattr(limit, unit)
            if most is not None:
                used, held = row.get(unit, 0), row.get(f"held_{unit}", 0)
                of = scope.partition(":")[0]
                values = (most / scale, used / scale, held / scale)
                found.append((scope, Left(of, limit.per, name, *values)))
    return found


def _count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((condition, 1), else_=0))
