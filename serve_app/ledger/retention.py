"""What the ledger keeps, and for how long: answers and calls, with their feedback and corrections,
for so many days; counters for as long as a limit may need them, or a report.

What is older is removed in small batches with pauses between them, so that nobody who asks waits.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select, text

from serve_app.ledger import tables
from serve_app.ledger.database import Database
from serve_app.ledger.limits import periods

DAY_S = 86400.0

_BATCH = 500  # answers in a transaction
_PRUNING = 0x70727565  # any number that nobody else locks by: "prue"
_KEPT_MINUTES = 2  # days
_MINUTES_BACK = 40  # days that are looked through for minutes; after a longer stop, `before` does
_KEPT_COUNTERS_S = 62 * DAY_S  # this month and the one before it

_answers, _calls, _corrections = tables.answers.c, tables.calls.c, tables.corrections.c


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows of each table have been removed, or would be."""

    answers: int = 0
    calls: int = 0
    corrections: int = 0
    counters: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        mine, theirs = asdict(self), asdict(other)
        return Pruned(**{name: mine[name] + theirs[name] for name in mine})

    def __bool__(self) -> bool:
        return any(asdict(self).values())


def kept_from(now: float, days: int | None) -> float:
    """Unix time from which on answers are kept."""
    return 0.0 if days is None else now - days * DAY_S


async def prune(database: Database, days: int | None, now: float, batch: int = _BATCH) -> Pruned:
    """Remove what is older than so many days, one process at a time.

    Args:
        days: `None` keeps everything but the counters of minutes that are over.
    """
    removed = Pruned(counters=await database.write(lambda it: _prune_counters(it, days, now)))
    if days is None:
        return removed
    before = kept_from(now, days)
    while True:
        began = time.monotonic()
        step = await database.write(lambda it: _prune_answers(it, before, batch))
        if not step:
            return removed
        removed += step
        # Others have the database for at least as long as this had it.
        await asyncio.sleep(time.monotonic() - began)


async def due(database: Database, days: int, now: float) -> Pruned:
    """What `prune` would remove now."""
    old = _old(kept_from(now, days))
    calls = select(_calls.id).where(_calls.answer_id.in_(select(_answers.id).where(old)))
    corrected = _corrections.call_id.in_(calls)

    def count(connection: Connection) -> Pruned:
        counted = [
            select(func.count()).select_from(tables.answers).where(old),
            select(func.count()).select_from(calls.subquery()),
            select(func.count()).select_from(tables.corrections).where(corrected),
            select(func.count()).select_from(tables.counters).where(over(days, now)),
        ]
        return Pruned(*(connection.execute(each).scalar_one() for each in counted))

    return await database.read(count)


def _prune_answers(connection: Connection, before: float, batch: int) -> Pruned:
    if not _alone(connection):
        return Pruned()
    oldest = select(_answers.id).where(_old(before)).order_by(_answers.started_at).limit(batch)
    answers = connection.execute(oldest).scalars().all()
    if not answers:
        return Pruned()
    theirs = select(_calls.id).where(_calls.answer_id.in_(answers))
    corrected = delete(tables.corrections).where(_corrections.call_id.in_(theirs))
    corrections = connection.execute(corrected).rowcount
    calls = connection.execute(delete(tables.calls).where(_calls.answer_id.in_(answers))).rowcount
    connection.execute(delete(tables.answers).where(_answers.id.in_(answers)))
    return Pruned(len(answers), calls, corrections)


def _prune_counters(connection: Connection, days: int | None, now: float) -> int:
    if not _alone(connection):
        return 0
    return connection.execute(delete(tables.counters).where(over(days, now))).rowcount


def _old(before: float) -> ColumnElement[bool]:
    # Those under way are as young as their deadline; a lost one has been called so.
    return (_answers.started_at < before) & (_answers.status != "open")


def over(days: int | None, now: float) -> ColumnElement[bool]:
    """Which counters nobody needs, as ranges of the index: the texts sort as their times do."""
    period = tables.counters.c.period
    ranges: list[ColumnElement[bool]] = []
    for back in range(_KEPT_MINUTES + 1, _MINUTES_BACK):
        day = periods(now - back * DAY_S)["day"]
        # The minutes of a day lie between these two, and the day itself does not.
        ranges.append(period.between(f"{day}T", f"{day}U"))
    if days is not None:
        kept = min(kept_from(now, days), now - _KEPT_COUNTERS_S)
        # Before a month are all its days and minutes, and the months before it.
        ranges.append(period < periods(kept)["month"])
    return or_(*ranges)


def _alone(connection: Connection) -> bool:
    """Whether no other process removes anything now; on SQLite the write lock sees to it."""
    if connection.dialect.name != "postgresql":
        return True
    lock = text("SELECT pg_try_advisory_xact_lock(:number)")
    return bool(connection.execute(lock, {"number": _PRUNING}).scalar())
