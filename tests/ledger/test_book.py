"""What may be spent is never passed, and what is counted is what was written, whatever happens."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, select, text
from sqlalchemy.dialects import sqlite

from serve_app.errors import BudgetExceeded, LedgerUnavailable, SettingsError
from serve_app.ledger import tables
from serve_app.ledger.book import COUNTERS, Book
from serve_app.ledger.database import Database
from serve_app.ledger.entries import Closing, Hold, Opening, Settlement
from serve_app.ledger.limits import Amount, Limit, Payer, counters, seconds_left
from serve_app.settings import LimitSettings, from_args
from tests.fixtures import ledger_file

T = TypeVar("T")

NOON = 1_790_000_000.0 - 1_790_000_000.0 % 86400 + 43200
ANN = Payer("acme", "ann")
BOB = Payer("acme", "bob")
EVE = Payer("other", "ann")


def opening(payer: Payer = ANN, moment: float = NOON) -> Opening:
    row = {"request_id": "r", "asked_model": "trivium/auto", "degraded": ""}
    return Opening(uuid.uuid4().hex, payer, moment, moment + 60, row)


def hold(nanos: int, payer: Payer = ANN, moment: float = NOON, tokens: int = 0) -> Hold:
    row = {"model": "large", "purpose": "frontier", "adapter": None}
    bound = Amount(0, tokens, nanos)
    return Hold(uuid.uuid4().hex, "a" * 32, payer, moment, moment + 60, bound, row)


def settled(held: Hold, nanos: int, tokens: int = 0) -> Settlement:
    row = {"status": "ok", "cost_nanos": nanos, "completion_tokens": tokens}
    return Settlement(held, Amount(0, tokens, nanos), row)


@dataclass
class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


async def balance(database: Database, scope: str, period: str) -> dict[str, Any]:
    columns = tables.counters.c
    chosen = select(tables.counters).where(columns.scope == scope, columns.period == period)
    return await database.read(lambda it: dict(it.execute(chosen).mappings().one()))


async def test_what_is_held_is_taken_from_what_is_left(database: Database) -> None:
    book = Book(database, [Limit("house", "day", nanos=100)], Clock())
    first = hold(60)
    await book.ask(first)
    with pytest.raises(BudgetExceeded) as refused:
        await book.ask(hold(60, EVE))
    assert refused.value.retry_after_s == 1  # it may be free again at once
    await book.tell(settled(first, 40))
    await book.ask(hold(60, EVE))
    with pytest.raises(BudgetExceeded):
        await book.ask(hold(1))
    await book.close()


async def test_counters_are_found_by_their_index() -> None:
    # SQLite would read the whole table for pairs of scope and period, in the write lock.
    database = Database(str(ledger_file()))
    keys = counters(ANN, NOON)
    chosen = COUNTERS.params(scopes=[each for each, _ in keys], periods=[each for _, each in keys])
    sql = chosen.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    explained = text(f"EXPLAIN QUERY PLAN {sql}")
    steps = await database.read(lambda it: [str(row) for row in it.execute(explained)])
    await database.close()
    assert any("SEARCH counters" in step for step in steps)
    assert not any("SCAN" in step for step in steps)


async def test_who_is_out_of_money_may_come_again_when_the_day_is_over(database: Database) -> None:
    book = Book(database, [Limit("tenant:", "day", nanos=100)], Clock())
    spent = hold(100)
    await book.ask(spent)
    await book.tell(settled(spent, 100))
    with pytest.raises(BudgetExceeded) as refused:
        await book.ask(hold(1, BOB))
    assert refused.value.retry_after_s == 43200
    assert "your tenant" in refused.value.message
    assert "$0.0000001" in refused.value.message
    await book.ask(hold(100, EVE))  # another tenant has its own
    await book.ask(hold(100, BOB, NOON + 43200))
    await book.close()


async def test_requests_and_tokens_are_limited_too(database: Database) -> None:
    given_ = [
        LimitSettings(of="key", per="minute", requests=2),
        LimitSettings(of="key", tenant="acme", name="ann", per="day", tokens=10),
    ]
    book = Book(database, [Limit.of(each) for each in given_], Clock())
    await book.ask(opening())
    await book.ask(opening())
    with pytest.raises(BudgetExceeded, match="2 requests"):
        await book.ask(opening())
    await book.ask(opening(BOB))
    await book.ask(opening(moment=NOON + 60))
    with pytest.raises(BudgetExceeded, match="10 tokens"):
        await book.ask(hold(0, tokens=11))
    await book.ask(hold(0, tokens=10))
    await book.ask(hold(0, BOB, tokens=11))
    await book.close()


async def test_callers_are_not_told_what_the_house_may_spend(database: Database) -> None:
    book = Book(database, [Limit("house", "month", nanos=77)], Clock())
    with pytest.raises(BudgetExceeded) as refused:
        await book.ask(hold(78))
    assert "77" not in refused.value.message
    await book.close()


async def test_an_answer_counts_when_it_began(database: Database) -> None:
    """Midnight passes, or the clock jumps: nothing is freed where it was not held."""
    clock = Clock(NOON + 43199)
    book = Book(database, [], clock)
    begun = hold(70, moment=clock.now)
    await book.ask(begun)
    clock.now -= 10_000_000
    await book.tell(settled(begun, 50))
    for scope, period in counters(ANN, begun.moment):
        row = await balance(database, scope, period)
        assert (row["nanos"], row["held_nanos"]) == (50, 0)
    await book.close()


async def test_a_settlement_after_its_lease_is_counted_once(database: Database) -> None:
    clock = Clock()
    book = Book(database, [Limit("house", "day", nanos=100)], clock)
    late = hold(100)
    await book.ask(late)
    assert await book.release() == 0  # its lease is not over
    clock.now += 120
    assert await book.release() == 1
    assert await book.release() == 0
    await book.tell(settled(late, 30))
    await book.tell(settled(late, 30))
    row = await balance(database, "house", "2026-09-21")
    assert (row["nanos"], row["held_nanos"]) == (30, 0)
    await book.close()


@pytest.mark.parametrize(("ahead_s", "ended"), [(25, 0), (31, 1)])
async def test_a_host_whose_clock_is_ahead_does_not_end_calls_of_others(
    database: Database, ahead_s: float, ended: int
) -> None:
    """Up to 25 s, and the 5 s in which a request may still be settled."""
    mine, theirs = Book(database, [], Clock()), Book(database, [], Clock())
    begun = hold(100)
    await mine.ask(begun)
    theirs.clock = Clock(begun.deadline + 4.9 + ahead_s)
    assert await theirs.release() == ended
    await mine.tell(settled(begun, 30))
    row = await balance(database, "house", "2026-09-21")
    assert (row["nanos"], row["held_nanos"]) == (30, 0)
    await mine.close()
    await theirs.close()


async def test_an_answer_that_nobody_closed_is_lost(database: Database) -> None:
    clock = Clock()
    book = Book(database, [], clock)
    left, closed = opening(), opening()
    await book.ask(left)
    await book.ask(closed)
    await book.tell(Closing(closed.id, {"status": "ok"}))
    clock.now += 120
    await book.release()
    answers = tables.answers.c
    chosen = select(answers.id, answers.status)
    found = await database.read(lambda it: it.execute(chosen).all())
    assert {row.id: row.status for row in found} == {left.id: "lost", closed.id: "ok"}
    await book.close()


async def test_one_entry_that_cannot_be_written_does_not_stop_the_others(
    database: Database,
) -> None:
    book = Book(database, [], Clock())
    good, twice = hold(1), hold(1)
    await book.ask(twice)
    failed, written = await asyncio.gather(book.ask(twice), book.ask(good), return_exceptions=True)
    assert isinstance(failed, LedgerUnavailable)
    assert written is None
    await book.close()


async def test_entries_that_say_more_and_less_are_written_together(database: Database) -> None:
    book = Book(database, [], Clock())
    first, second = hold(10), hold(10)
    await book.ask(first)
    await book.ask(second)
    short = Settlement(first, Amount(), {"status": "failed"})
    await asyncio.gather(book.tell(short), book.tell(settled(second, 7, tokens=3)))
    calls = tables.calls.c
    chosen = select(calls.cost_nanos, calls.completion_tokens).where(calls.id == second.id)
    row = await database.read(lambda it: it.execute(chosen).one())
    assert tuple(row) == (7, 3)
    await book.close()


async def test_counters_that_vanish_refuse_nobody(database: Database) -> None:
    """They were too old, or a backup is put back under a running gateway."""
    book = Book(database, [], Clock())
    begun = hold(10)
    await book.ask(begun)
    await database.write(lambda it: it.execute(delete(tables.counters)))
    await book.ask(hold(20))
    await book.tell(settled(begun, 4))
    row = await balance(database, "house", "2026-09-21")
    assert (row["nanos"], row["held_nanos"]) == (4, 10)
    await book.close()


async def test_what_cannot_be_written_at_all_holds_nobody_up(database: Database) -> None:
    book = Book(database, [], Clock())
    begun = hold(10)
    await book.ask(begun)
    row = {"status": "ok", "model": "m" * 500 + "\x00", "cost_nanos": "many"}
    # If each were tried again after a pause, the next one would not be written in time.
    told = [book.tell(Settlement(begun, Amount(0, 0, 5), row)) for _ in range(12)]
    await asyncio.gather(*told)
    await book.ask(hold(10))
    await book.close()


class Slow(Database):
    """A database whose writers wait for a gate, and say when they stand before it."""

    gate: asyncio.Event
    arrived: asyncio.Event

    async def write(self, work: Callable[[Connection], T]) -> T:
        self.arrived.set()
        await self.gate.wait()
        return await super().write(work)


async def test_a_hold_that_nobody_waits_for_any_more_is_let_go(address: str) -> None:
    """Its client left while it was being written."""
    slow = Slow(address)
    slow.gate, slow.arrived = asyncio.Event(), asyncio.Event()
    slow.gate.set()
    await slow.migrate()
    book = Book(slow, [Limit("house", "month", nanos=100)], Clock())
    await book.ask(hold(1))
    slow.gate.clear()
    slow.arrived.clear()
    leaving = asyncio.create_task(book.ask(hold(90)))
    await slow.arrived.wait()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    slow.gate.set()
    await book.ask(opening())
    row = await balance(slow, "house", "2026-09")
    while row["held_nanos"] != 1:
        row = await balance(slow, "house", "2026-09")
    await book.ask(hold(90, EVE))
    await book.close()


async def test_a_ledger_out_of_reach_is_an_error_not_a_wait(tmp_path: Any) -> None:
    book = Book(Database(str(tmp_path / "no" / "such" / "folder.db")), [], Clock())
    with pytest.raises(LedgerUnavailable):
        await book.ask(hold(1))


def test_seconds_left_reach_to_the_next_minute_day_and_month() -> None:
    assert seconds_left("minute", NOON + 1) == 59
    assert seconds_left("day", NOON) == 43200
    assert seconds_left("month", NOON) == 9 * 86400 + 43200


@dataclass
class Model:
    """What the book should say."""

    spent: int = 0
    open: dict[str, Hold] = field(default_factory=dict)
    gone: list[Hold] = field(default_factory=list)

    @property
    def held(self) -> int:
        return sum(each.bound.nanos for each in self.open.values())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(0, 60)),
        st.tuples(st.just("settle"), st.floats(0, 1)),
        st.tuples(st.just("settle twice"), st.floats(0, 1)),
        st.tuples(st.just("release"), st.just(0)),
        st.tuples(st.just("settle late"), st.floats(0, 1)),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(STEPS, st.integers(0, 200))
def test_no_order_of_events_passes_the_limit(steps: list[tuple[str, float]], limit: int) -> None:
    asyncio.run(_played(steps, limit))


async def _played(steps: list[tuple[str, float]], limit: int) -> None:
    database, model, clock = Database(str(ledger_file())), Model(), Clock()
    book = Book(database, [Limit("house", "month", nanos=limit)], clock)
    for step, much in steps:
        match step:
            case "hold":
                asked = hold(int(much))
                fits = model.spent + model.held + asked.bound.nanos <= limit
                try:
                    await book.ask(asked)
                    assert fits or not asked.bound.nanos
                    model.open[asked.id] = asked
                except BudgetExceeded:
                    assert not fits
            case "settle" | "settle twice" if model.open:
                done = model.open.pop(next(iter(model.open)))
                cost = int(done.bound.nanos * much)
                model.spent += cost
                await book.tell(settled(done, cost))
                if step == "settle twice":
                    await book.tell(settled(done, cost))
            case "release":
                clock.now += 120
                assert await book.release() == len(model.open)
                clock.now -= 120
                model.gone += model.open.values()
                model.open.clear()
            case "settle late" if model.gone:
                done = model.gone.pop()
                # Only then may a limit be passed: what it took was free for others meanwhile.
                cost = min(int(done.bound.nanos * much), limit - model.spent - model.held)
                model.spent += cost
                await book.tell(settled(done, cost))
        assert model.spent + model.held <= limit
    if any(step == "hold" for step, _ in steps):
        row = await balance(database, "house", "2026-09")
        assert (row["nanos"], row["held_nanos"]) == (model.spent, model.held)
    await book.close()


def test_no_two_payers_share_a_scope() -> None:
    assert len({*Payer("a/b", "c").scopes, *Payer("a", "b/c").scopes}) == 5
    assert len({*Payer("key:a", "c").scopes, *Payer("a", "c").scopes}) == 5
    named = Limit.of(LimitSettings(of="tenant", name="acme:", per="day", requests=1))
    assert not named.covers("tenant:acme:other")


@pytest.mark.parametrize(
    "limit",
    [
        {"of": "house", "per": "day"},
        {"of": "house", "per": "day", "usd": "-1"},
        {"of": "house", "per": "day", "usd": "NaN"},
        {"of": "house", "per": "day", "usd": "1", "name": "acme"},
        {"of": "key", "per": "day", "usd": "1", "name": "ci"},
        {"of": "tenant", "per": "day", "usd": "1", "tenant": "acme"},
        {"of": "tenant", "per": "week", "usd": "1"},
    ],
)
def test_a_limit_that_would_limit_nothing_is_refused(limit: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"ledger\.limits"):
        from_args({"ledger": {"limits": [limit]}})
