"""What was spent, on what, and what a *successful* answer cost.

Money comes from the calls that were made, so that it is what the counters say; an answer whose
process died is in it with what its calls took.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, literal_column, select

from serve_app.domain import WARM_UP
from serve_app.ledger import tables
from serve_app.ledger.database import Database
from serve_app.ledger.limits import EACH, HOUSE, Limit, Payer, periods


class By(StrEnum):
    """What answers are told apart by; columns of theirs."""

    DAY = "day"
    ROUTE = "route"
    TENANT = "tenant"
    MODEL = "model"
    KEY = "api_key"


Interval = tuple[float, float]

_NOBODY = "unknown"
_Z = 1.959964  # 95 % of a normal distribution
_NONE: ColumnElement[str] = literal_column("'–'")  # a parameter would be another one in GROUP BY
_answers, _calls = tables.answers.c, tables.calls.c


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open, in Unix seconds."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Spent:
    """Dollars of answers: ours, and what other stacks would have taken for those that ended."""

    usd: float = 0.0
    baseline_usd: float = 0.0
    all_frontier_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """A group of answers.

    Nothing is known of an answer that nobody judged, so successes are those that were judged good,
    and what one costs is told by the judged ones alone.

    Attributes:
        group: What they have in common, in the order asked for.
        asked: Questions. What other requests cost, such as searches, is in `spent` all the same.
        answered: Those that came to their end; the others failed, were left, or were lost.
        good, bad: Of those answered, how many were judged so.
        judges: By whom, and how many.
        spent: On all of them, failures and losses included.
        judged_spent: On those that were judged.
    """

    group: tuple[str, ...]
    asked: int
    answered: int
    good: int
    bad: int
    judges: Mapping[str, int]
    degraded: int
    spent: Spent
    judged_spent: Spent

    @property
    def judged(self) -> int:
        return self.good + self.bad

    @property
    def success(self) -> float | None:
        """The share of judged answers that were good; `None` before anybody judged."""
        return self.good / self.judged if self.judged else None

    @property
    def success_interval(self) -> Interval | None:
        """In which the share of all such answers lies, if those judged were chosen by chance."""
        return wilson(self.good, self.judged) if self.judged else None

    @property
    def usd_per_success(self) -> float | None:
        """Dollars of the judged answers, for each that was good."""
        return self.judged_spent.usd / self.good if self.good else None

    @property
    def usd_per_success_interval(self) -> tuple[float, float | None] | None:
        """The same, by the interval of successes; without an upper end where none was good."""
        if (between := self.success_interval) is None:
            return None
        each = self.judged_spent.usd / self.judged
        low, high = between
        return each / high, each / low if low else None

    @property
    def baseline_usd_per_answer(self) -> float | None:
        """Dollars of a RAG-only answer, of the judged ones where there are any.

        As if each were good, which is to its advantage.
        """
        return self._each("baseline_usd")

    @property
    def all_frontier_usd_per_answer(self) -> float | None:
        """The same of a frontier model alone."""
        return self._each("all_frontier_usd")

    @property
    def saved(self) -> float | None:
        """How much less a success cost than a RAG-only answer, as a share of that."""
        ours, theirs = self.usd_per_success, self.baseline_usd_per_answer
        return None if ours is None or not theirs else 1 - ours / theirs

    def _each(self, name: str) -> float | None:
        count, spent = (
            (self.judged, self.judged_spent) if self.judged else (self.answered, self.spent)
        )
        return float(getattr(spent, name)) / count if count else None

    def public(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "group": list(self.group),
            "asked": self.asked,
            "answered": self.answered,
            "judged": self.judged,
            "unjudged": self.answered - self.judged,
            "judges": dict(self.judges),
            "good": self.good,
            "bad": self.bad,
            "degraded": self.degraded,
            "usd": round(self.spent.usd, 9),
            "baseline_usd": round(self.spent.baseline_usd, 9),
            "all_frontier_usd": round(self.spent.all_frontier_usd, 9),
            "judged_usd": round(self.judged_spent.usd, 9),
            "judged_baseline_usd": round(self.judged_spent.baseline_usd, 9),
            "judged_all_frontier_usd": round(self.judged_spent.all_frontier_usd, 9),
            "success": self.success,
            "success_interval": self.success_interval,
            "usd_per_success": self.usd_per_success,
            "usd_per_success_interval": self.usd_per_success_interval,
            "saved": self.saved,
        }


@dataclass(frozen=True, slots=True)
class Left:
    """What a limit leaves; dollars are `usd`."""

    of: str
    per: str
    unit: str
    limit: float
    used: float
    held: float

    @property
    def share(self) -> float:
        """How much of it is spent or held."""
        return (self.used + self.held) / self.limit if self.limit else 1.0

    def public(self, *, alone: bool) -> dict[str, Any]:
        """As a caller sees it.

        Of the house, which others fill too, no more than whether there is room: the share in steps
        of a tenth, rounded up, and no figure that tells what others spend.

        Args:
            alone: Nobody else is there whose spend that would tell.
        """
        if self.of == HOUSE and not alone:
            share = min(1.0, math.ceil(self.share * 10) / 10)
            hidden = {"limit": None, "used": None, "held": None}
            return {"of": self.of, "per": self.per, "unit": self.unit, **hidden, "share": share}
        return {**asdict(self), "share": self.share}


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
    judged = ok & _answers.good.is_not(None)
    counted = select(
        *group,
        _count(tables.is_question).label("asked"),
        _count(ok).label("answered"),
        _count(ok & _answers.good.is_(True)).label("good"),
        _count(ok & _answers.good.is_(False)).label("bad"),
        _count(ok & (_answers.degraded != "")).label("degraded"),
        _sum(ok, _answers.baseline_nanos).label("baseline"),
        _sum(ok, _answers.all_frontier_nanos).label("all_frontier"),
        _sum(judged, _answers.baseline_nanos).label("judged_baseline"),
        _sum(judged, _answers.all_frontier_nanos).label("judged_all_frontier"),
    )
    paid = select(
        *group,
        func.sum(_calls.cost_nanos).label("nanos"),
        _sum(judged, _calls.cost_nanos).label("judged_nanos"),
    )
    paid = paid.select_from(tables.calls.join(tables.answers, _calls.answer_id == _answers.id))
    by_judge = select(*group, _answers.judge, func.count().label("answers")).where(during, judged)
    statements = (
        counted.where(during).group_by(*group).order_by(*group),
        paid.where(during).group_by(*group),
        by_judge.group_by(*group, _answers.judge),
    )

    def read(connection: Connection) -> list[Sequence[Any]]:
        return [connection.execute(each).all() for each in statements]

    lines, spent, judgements = await database.read(read)
    costs = {tuple(row[: len(by)]): row for row in spent}
    judges: dict[tuple[Any, ...], dict[str, int]] = {}
    for row in judgements:
        judges.setdefault(tuple(row[: len(by)]), {})[row.judge or _NOBODY] = row.answers
    made = [
        _line(row, len(by), costs.get(tuple(row[: len(by)])), judges.get(tuple(row[: len(by)]), {}))
        for row in lines
    ]
    return [line for line in made if line.asked or line.spent.usd]


def _line(row: Any, by: int, cost: Any, judges: Mapping[str, int]) -> Line:
    nanos, judged_nanos = (cost.nanos, cost.judged_nanos) if cost else (0, 0)
    return Line(
        group=tuple(row[:by]),
        asked=row.asked or 0,
        answered=row.answered or 0,
        good=row.good or 0,
        bad=row.bad or 0,
        judges=judges,
        degraded=row.degraded or 0,
        spent=Spent(_usd(nanos), _usd(row.baseline), _usd(row.all_frontier)),
        judged_spent=Spent(
            _usd(judged_nanos), _usd(row.judged_baseline), _usd(row.judged_all_frontier)
        ),
    )


def wilson(good: int, count: int) -> Interval:
    """In which a share lies with 95 % confidence, when `good` of `count` were found (Wilson 1927).

    Unlike the usual mean and deviation it holds for few, and for none or all.
    """
    share, z2 = good / count, _Z * _Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return middle - half if good else 0.0, middle + half if good < count else 1.0


async def left(
    database: Database, limits: Sequence[Limit], payer: Payer, moment: float
) -> list[Left]:
    """What the limits that a payer's answers count for leave at a time, the house's included."""
    covering = [(each, scope) for each in limits for scope in payer.scopes if each.covers(scope)]
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


def _sum(condition: ColumnElement[bool], nanos: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.sum(case((condition, nanos), else_=0))


def _usd(nanos: Any) -> float:
    return int(nanos or 0) / 1e9
