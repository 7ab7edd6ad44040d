"""Whatever happens in whatever order, and at once, the ledger is what a model in memory says.

Several books, each with connections of its own, write to one database at the same time. Rules
race holds and settlements against each other, let clients leave, kill books in the middle of a
transaction, let leases end, settle what was lost, correct, and prune. After each, every row of
calls and every counter is compared.

`TRIVIUM_LEDGER_STEPS=10000 pytest --timeout 0 tests/ledger/test_stateful.py` takes so many steps.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import Connection, delete, select

from serve_app.domain import Usage
from serve_app.errors import BudgetExceeded, LedgerUnavailable
from serve_app.ledger import tables
from serve_app.ledger.book import Book
from serve_app.ledger.corrections import correct
from serve_app.ledger.database import Database
from serve_app.ledger.entries import Closing, Hold, Opening, Settlement
from serve_app.ledger.limits import Amount, Limit, Payer
from serve_app.ledger.retention import prune
from tests.fixtures import FRONTIER, prices
from tests.ledger.test_book import NOON, Clock

T = TypeVar("T")

BOOKS = 3
PAYERS = (Payer("acme", "ann"), Payer("acme", "bob"), Payer("other", "ann"))
HOUSE, TENANT, KEY = 2_000_000, 1_200_000, 40
LIMITS = (
    Limit("house", "month", nanos=HOUSE),
    Limit("tenant:", "day", nanos=TENANT),
    Limit("tenant:other", "day", tokens=90),
    Limit("key:", "minute", requests=4, tokens=KEY),
)
LEASE_S = 60 + 5 + 25
DAY_S = 86400.0
PATIENCE_S = 10.0

Key = tuple[str, str]  # scope and period


def keys(payer: Payer, moment: float) -> list[Key]:
    """The counters of a payer, worked out anew rather than by the code under test."""
    at = time.gmtime(moment)
    scopes = ("house", f"tenant:{payer.tenant}", f"key:{payer.tenant}\x1f{payer.key}")
    forms = ("%Y-%m-%dT%H:%M", "%Y-%m-%d", "%Y-%m")
    return [(scope, time.strftime(form, at)) for scope in scopes for form in forms]


def limited(payer: Payer, moment: float) -> Iterable[tuple[Key, str, int]]:
    """Each counter that has a limit, with its unit and that limit."""
    by_key = keys(payer, moment)
    yield by_key[2], "nanos", HOUSE
    yield by_key[4], "nanos", TENANT
    if payer.tenant == "other":
        yield by_key[4], "tokens", 90
    yield by_key[6], "tokens", KEY
    yield by_key[6], "requests", 4


@dataclass
class Call:
    hold: Hold
    status: str = "open"
    taken: Amount = field(default_factory=Amount)
    pruned: bool = False


@dataclass
class Asked:
    opening: Opening
    status: str = "open"
    pruned: bool = False


@dataclass
class Model:
    """What the ledger should say."""

    calls: dict[str, Call] = field(default_factory=dict)
    answers: dict[str, Asked] = field(default_factory=dict)
    # What claims above a hold, and settlements after a lease, may take beyond a limit.
    beyond: dict[Key, Amount] = field(default_factory=lambda: defaultdict(Amount))

    def balances(self) -> dict[Key, tuple[Amount, Amount]]:
        """Spent and held of every counter: the sums over all calls and requests."""
        spent: dict[Key, Amount] = defaultdict(Amount)
        held: dict[Key, Amount] = defaultdict(Amount)
        for asked in self.answers.values():
            for key in keys(asked.opening.payer, asked.opening.moment):
                spent[key] += Amount(requests=1)
        for call in self.calls.values():
            for key in keys(call.hold.payer, call.hold.moment):
                spent[key] += call.taken
                held[key] += call.hold.bound if call.status == "open" else Amount()
        return {key: (spent[key], held[key]) for key in {*spent, *held}}

    def settle(self, call: Call, taken: Amount) -> None:
        bound = call.hold.bound if call.status == "open" else Amount()
        more = Amount(0, max(0, taken.tokens - bound.tokens), max(0, taken.nanos - bound.nanos))
        for key in keys(call.hold.payer, call.hold.moment):
            self.beyond[key] += more
        call.status, call.taken = "ok", taken

    def end_leases(self, now: float) -> None:
        for call in self.calls.values():
            if call.status == "open" and call.hold.moment + LEASE_S < now:
                call.status = "lost"
        for asked in self.answers.values():
            if asked.status == "open" and asked.opening.moment + LEASE_S < now:
                asked.status = "lost"

    def prune(self, before: float) -> None:
        for name, asked in self.answers.items():
            if asked.status != "open" and asked.opening.moment < before:
                asked.pruned = True
                for call in self.calls.values():
                    call.pruned = call.pruned or call.hold.answer_id == name


class Unstoppable(Database):
    """Transactions that have begun come to their end, also when who asked for them is dead."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.begun = asyncio.Event()
        self._under_way: set[asyncio.Task[Any]] = set()

    async def write(self, work: Callable[[Connection], T]) -> T:
        task: asyncio.Task[T] = asyncio.create_task(super().write(work))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        self.begun.set()
        return await asyncio.shield(task)

    async def idle(self) -> None:
        while self._under_way:
            await asyncio.wait(set(self._under_way))


payers = st.sampled_from(PAYERS)
books = st.integers(0, BOOKS - 1)
# Tokens of prompt and answer; at $2 and $8 a million of them.
amounts = st.tuples(st.integers(0, 20), st.integers(0, 15))
asks = st.tuples(books, payers, amounts)
shares = st.sampled_from([0.0, 0.3, 1.0, 1.0, 1.7])


class Ledger(RuleBasedStateMachine):
    """Against one database, which is empty at the beginning.

    Rules have no preconditions, because who wins a race differs from run to run, and Hypothesis
    takes other rules than before for a fault: one with nothing to do does nothing.
    """

    address = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock(NOON)
        self.model = Model()
        self.run(self._open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def _open(self) -> None:
        self.databases = [Unstoppable(self.address) for _ in range(BOOKS)]
        self.books = [Book(each, LIMITS, self.clock) for each in self.databases]

        def emptied(connection: Connection) -> None:
            for table in tables.metadata.sorted_tables:
                connection.execute(delete(table))

        await self.databases[0].write(emptied)

    def teardown(self) -> None:
        async def end() -> None:
            # Nothing is held when all leases are over.
            self.clock.now += 10 * LEASE_S
            await self.books[0].release()
            self.model.end_leases(self.clock.now)
            await self._compare()
            assert not any(held != Amount() for _, held in self.model.balances().values())

        async def close() -> None:
            for book, database in zip(self.books, self.databases, strict=True):
                await book.close()
                await database.idle()

        try:
            self.run(end())
        finally:
            # Nothing of this one may reach into the next one's database.
            self.run(close())
            self.runner.close()

    def _hold(self, payer: Payer, amount: tuple[int, int]) -> Hold:
        answers = self.model.answers.items()
        mine = [n for n, it in answers if it.opening.payer == payer and it.status == "open"]
        prompt, completion = amount
        bound = Amount(0, prompt + completion, prompt * 2000 + completion * 8000)
        row = {"model": FRONTIER, "purpose": "frontier", "adapter": None}
        answer, now = mine[-1] if mine else "f" * 32, self.clock.now
        return Hold(uuid.uuid4().hex, answer, payer, now, now + 60, bound, row)

    def _open_calls(self) -> list[Call]:
        return [call for call in self.model.calls.values() if call.status == "open"]

    @rule(wanted=st.lists(st.tuples(books, payers), min_size=1, max_size=8))
    def race_requests(self, wanted: list[tuple[int, Payer]]) -> None:
        self.run(self._raced(opened=wanted))

    @rule(wanted=st.lists(asks, min_size=1, max_size=8))
    def race_holds(self, wanted: list[tuple[int, Payer, tuple[int, int]]]) -> None:
        self.run(self._raced(wanted))

    @rule(
        wanted=st.lists(asks, max_size=6),
        ended=st.lists(st.tuples(books, shares), min_size=1, max_size=6),
        twice=st.booleans(),
    )
    def race_holds_and_settlements(
        self,
        wanted: list[tuple[int, Payer, tuple[int, int]]],
        ended: list[tuple[int, float]],
        twice: bool,
    ) -> None:
        self.run(self._raced(wanted, settled=ended, twice=twice))

    async def _raced(
        self,
        wanted: Iterable[tuple[int, Payer, tuple[int, int]]] = (),
        opened: Iterable[tuple[int, Payer]] = (),
        settled: Iterable[tuple[int, float]] = (),
        *,
        twice: bool = False,
    ) -> None:
        """Everything at once; then each refusal must have had its reason at some moment."""
        now = self.clock.now
        entries: list[tuple[int, Hold | Opening]] = [(b, self._hold(p, a)) for b, p, a in wanted]
        row = {"request_id": "r", "asked_model": "trivium/auto", "degraded": ""}
        entries += [(b, Opening(uuid.uuid4().hex, p, now, now + 60, row)) for b, p in opened]
        before = self.model.balances()
        telling = []
        for (book, share), call in zip(settled, self._open_calls(), strict=False):
            bound = call.hold.bound
            taken = Amount(0, int(bound.tokens * share), int(bound.nanos * share))
            columns = {"cost_nanos": taken.nanos, "completion_tokens": taken.tokens}
            ending = Settlement(call.hold, taken, {"status": "ok", **columns})
            self.model.settle(call, taken)
            telling += [self.books[(book + n) % BOOKS].tell(ending) for n in range(1 + twice)]
        asking = [self.books[book].ask(entry) for book, entry in entries]
        told = await asyncio.gather(*telling, *asking, return_exceptions=True)
        refused, late = [], []
        for (_, entry), outcome in zip(entries, told[len(telling) :], strict=True):
            match outcome:
                case None:
                    self._admitted(entry)
                case BudgetExceeded():
                    refused.append(entry)
                case LedgerUnavailable():
                    late.append(entry)
                case _:
                    raise AssertionError(outcome)
        assert all(each is None for each in told[: len(telling)])
        await self._given_up(late)
        if not late:
            self._had_reasons(refused, before, settling=bool(telling))
        await self._compare()

    async def _given_up(self, entries: Iterable[Hold | Opening]) -> None:
        """Nobody waited for them any more: what was written all the same is let go by its book."""
        for book in self.books:
            await book._waiting.join()
        written = await self._rows()
        for entry in entries:
            if isinstance(entry, Opening):
                if entry.id in await self._states():
                    self._admitted(entry)
            elif entry.id in written:
                self.model.calls[entry.id] = Call(entry, "failed")

    def _admitted(self, entry: Hold | Opening) -> None:
        if isinstance(entry, Hold):
            self.model.calls[entry.id] = Call(entry)
        else:
            self.model.answers[entry.id] = Asked(entry)

    def _had_reasons(
        self,
        refused: Iterable[Hold | Opening],
        before: dict[Key, tuple[Amount, Amount]],
        *,
        settling: bool,
    ) -> None:
        after = self.model.balances()
        none = (Amount(), Amount())
        for entry in refused:
            more = entry.bound if isinstance(entry, Hold) else Amount(requests=1)
            for key, unit, most in limited(entry.payer, entry.moment):
                spent, held = after.get(key, none)
                full = getattr(spent, unit) + getattr(held, unit)
                if settling:
                    # What was settled may have been held still when this one was refused.
                    full += sum(getattr(each, unit) for each in before.get(key, none))
                if getattr(more, unit) and full + getattr(more, unit) > most:
                    break
            else:
                pytest.fail(f"{entry} was refused, though it fits")

    @rule(wanted=asks, turns=st.integers(0, 6))
    def leave(self, wanted: tuple[int, Payer, tuple[int, int]], turns: int) -> None:
        """A client is gone before it knows whether its hold is written."""

        async def left() -> None:
            index, payer, amount = wanted
            entry = self._hold(payer, amount)
            asking = asyncio.create_task(self.books[index].ask(entry))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            (outcome,) = await asyncio.gather(asking, return_exceptions=True)
            if outcome is None:
                self._admitted(entry)
            else:
                await self._given_up([entry])
            await self._compare()

        self.run(left())

    @rule(
        wanted=st.lists(st.tuples(payers, amounts), min_size=1, max_size=5),
        index=books,
        turns=st.integers(0, 6),
        within=st.booleans(),
    )
    def crash(
        self,
        wanted: list[tuple[Payer, tuple[int, int]]],
        index: int,
        turns: int,
        within: bool,
    ) -> None:
        """A book dies while it writes; what it may have written nobody settles."""

        async def crashed() -> None:
            entries = [self._hold(payer, amount) for payer, amount in wanted]
            book, database = self.books[index], self.databases[index]
            database.begun.clear()
            asking = [asyncio.create_task(book.ask(each)) for each in entries]
            if within:
                await database.begun.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in (*asking, *book._working):
                task.cancel()
            await asyncio.gather(*asking, *book._working, return_exceptions=True)
            await database.idle()
            written = await self._rows([each.id for each in entries])
            for each in entries:
                if each.id in written:
                    self._admitted(each)
            self.books[index] = Book(database, LIMITS, self.clock)
            await self._compare()

        self.run(crashed())

    @rule(
        seconds=st.sampled_from([1.0, 45.0, 61.0, 100.0, DAY_S, 33 * DAY_S]),
        releasing=st.sets(books, min_size=1),
    )
    def pass_time(self, seconds: float, releasing: set[int]) -> None:
        """Leases end, at several books at once."""

        async def passed() -> None:
            self.clock.now += seconds
            await asyncio.gather(*(self.books[each].release() for each in releasing))
            self.model.end_leases(self.clock.now)
            await self._compare()

        self.run(passed())

    @rule(index=books, share=shares)
    def settle_late(self, index: int, share: float) -> None:
        async def settled() -> None:
            calls = self.model.calls.values()
            call = next((it for it in calls if it.status == "lost"), None)
            if call is None:
                return
            if call.pruned:
                taken = Amount()
            else:
                bound = call.hold.bound
                taken = Amount(0, int(bound.tokens * share), int(bound.nanos * share))
            columns = {"cost_nanos": taken.nanos, "completion_tokens": taken.tokens}
            self.model.settle(call, taken)
            await self.books[index].tell(Settlement(call.hold, taken, {"status": "ok", **columns}))
            await self._compare()

        self.run(settled())

    @rule(index=books)
    def close(self, index: int) -> None:
        async def closed() -> None:
            answers = self.model.answers.values()
            asked = next((it for it in answers if it.status == "open"), None)
            if asked is None:
                return
            asked.status = "ok"
            await self.books[index].tell(Closing(asked.opening.id, {"status": "ok"}))
            await self._compare()

        self.run(closed())

    @rule(index=books, amount=amounts)
    def correct(self, index: int, amount: tuple[int, int]) -> None:
        async def corrected() -> None:
            call = next(iter(self._correctable()), None)
            if call is None:
                return
            usage = Usage(*amount)
            await correct(self.databases[index], prices(), call.hold.id, usage, "", self.clock.now)
            taken = Amount(0, usage.total_tokens, amount[0] * 2000 + amount[1] * 8000)
            self.model.settle(call, taken)
            call.status = "corrected"
            await self._compare()

        self.run(corrected())

    def _correctable(self) -> Iterable[Call]:
        return (it for it in self.model.calls.values() if it.status == "ok" and not it.pruned)

    @rule(pruning=st.sets(books, min_size=1), days=st.sampled_from([1, 40, None]))
    def prune(self, pruning: set[int], days: int | None) -> None:
        async def pruned() -> None:
            steps = [prune(self.databases[n], days, self.clock.now, batch=2) for n in pruning]
            await asyncio.gather(*steps)
            if days is not None:
                self.model.prune(self.clock.now - days * DAY_S)
            await self._compare()

        self.run(pruned())

    async def _rows(self, ids: Iterable[str] | None = None) -> dict[str, tuple[str, int, int]]:
        """Calls by id: status, tokens, nanodollars."""
        calls = tables.calls.c
        tokens = calls.prompt_tokens + calls.completion_tokens
        chosen = select(calls.id, calls.status, tokens, calls.cost_nanos)
        if ids is not None:
            chosen = chosen.where(calls.id.in_(list(ids)))
        found = await self.databases[0].read(lambda it: it.execute(chosen).all())
        return {row[0]: (row[1], row[2], row[3]) for row in found}

    async def _states(self) -> dict[str, str]:
        answers = tables.answers.c
        chosen = select(answers.id, answers.status)
        return await self.databases[0].read(lambda it: dict(it.execute(chosen).tuples().all()))

    async def _compare(self) -> None:
        """Every call, every answer and every counter; and no limit is passed but by claims."""
        self._within_limits()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                await self._compare_once()
            except AssertionError:
                # On a busy machine a settlement may be on its way still: it is told to wait less.
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
            else:
                return

    async def _compare_once(self) -> None:
        expected = {
            name: (call.status, call.taken.tokens, call.taken.nanos)
            for name, call in self.model.calls.items()
            if not call.pruned
        }
        assert await self._rows() == expected
        kept = {name: it.status for name, it in self.model.answers.items() if not it.pruned}
        assert await self._states() == kept
        chosen = select(tables.counters)
        rows = await self.databases[0].read(lambda it: it.execute(chosen).mappings().all())
        there = {(row["scope"], row["period"]): row for row in rows}
        for key, (spent, held) in self.model.balances().items():
            row = there.pop(key, None)
            if self._is_old(key[1]):
                continue  # it may have been removed, and begun anew by a late settlement
            assert row is not None
            assert (row["requests"], row["tokens"], row["nanos"]) == (
                spent.requests,
                spent.tokens,
                spent.nanos,
            )
            assert (row["held_tokens"], row["held_nanos"]) == (held.tokens, held.nanos)
        # Others have never been counted in: refusals make rows too.
        assert all(row["requests"] == row["tokens"] == row["nanos"] == 0 for row in there.values())

    def _within_limits(self) -> None:
        balances, none = self.model.balances(), (Amount(), Amount())
        seen = {(it.hold.payer, it.hold.moment) for it in self.model.calls.values()}
        seen |= {(it.opening.payer, it.opening.moment) for it in self.model.answers.values()}
        for payer, moment in seen:
            for key, unit, most in limited(payer, moment):
                spent, held = balances.get(key, none)
                total = getattr(spent, unit) + getattr(held, unit)
                assert total <= most + getattr(self.model.beyond[key], unit)

    def _is_old(self, period: str) -> bool:
        """Whether a counter may be gone: minutes after two days, others after two months."""
        form = "%Y-%m-%dT%H:%M"[: {16: 14, 10: 8, 7: 5}[len(period)]]
        kept = 2 * DAY_S if len(period) == 16 else 31 * DAY_S
        return period < time.strftime(form, time.gmtime(self.clock.now - kept))


def test_the_ledger_is_what_a_model_says(address: str) -> None:
    steps = int(os.environ.get("TRIVIUM_LEDGER_STEPS", "1000"))
    asyncio.run(_migrated(address))
    machine = type("Ledger", (Ledger,), {"address": address})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, steps // 40),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


async def _migrated(address: str) -> None:
    database = Database(address)
    await database.migrate()
    await database.close()
