"""Calls are written down before they are made, and paid for as their provider counts them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from sqlalchemy import select

from serve_app.domain import (
    Delta,
    Generation,
    Lost,
    Message,
    RequestContext,
    Usage,
)
from serve_app.errors import (
    BudgetExceeded,
    FrontierNotConfigured,
    FrontierRefused,
    InvalidRequest,
    LedgerUnavailable,
    Overloaded,
    ReplicaDied,
    RoadBarred,
    Unavailable,
)
from serve_app.ledger import tables
from serve_app.ledger.accounts import Account, Accounts
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.limits import Limit
from tests.fixtures import EXPERT, FRONTIER, ledger_file, prices

ASKED = Generation((Message("user", "Why is the sky blue?"),), max_tokens=50)
# 20 bytes and 144 around them at $2 a million tokens, 50 tokens of an answer at $8.
HELD = 164 * 2000 + 50 * 8000


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    opened = Database(str(ledger_file()))
    yield opened
    await opened.close()


def accounts(database: Database, *limits: Limit) -> Accounts:
    return Accounts(Book(database, limits), prices())


async def account(made: Accounts) -> Account:
    context = RequestContext("r-1", time.time() + 60, "acme", "ann")
    return await made.open(context, "trivium/auto", None)


async def calls(database: Database) -> Sequence[Any]:
    return await database.read(lambda it: it.execute(select(tables.calls)).all())


async def test_a_call_is_written_down_before_it_is_made(database: Database) -> None:
    made = accounts(database)
    async with (await account(made)).paying([FRONTIER], "frontier", ASKED) as bill:
        (row,) = await calls(database)
        assert (row.status, row.model, row.tenant) == ("open", FRONTIER, "acme")
        assert (row.held_tokens, row.held_nanos) == (164 + 50, HELD)
        bill.note(Delta("Because", usage=Usage(20, 1)))
        bill.note(Delta("", "stop", Usage(20, 7, 4, 3)))
    (row,) = await calls(database)
    assert row.status == "ok"
    assert (row.prompt_tokens, row.completion_tokens) == (20, 7)
    assert (row.cached_tokens, row.reasoning_tokens) == (4, 3)
    assert row.cost_nanos == 20 * 2000 + 7 * 8000
    assert not row.estimated


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ([], Usage()),
        ([Delta("A"), Delta("B"), Delta("C")], Usage(5, 3)),
        ([Delta("word " * 8)], Usage(5, 10)),
        ([Delta("A", usage=Usage(20, 9))], Usage(20, 9)),
    ],
    ids=["before it began", "before it was counted", "in one piece", "with a count"],
)
async def test_a_call_that_breaks_off_is_paid_for_what_is_known(
    database: Database, said: list[Delta], taken: Usage
) -> None:
    made = accounts(database)
    with contextlib.suppress(Unavailable):
        async with (await account(made)).paying([EXPERT], "expert", ASKED) as bill:
            for delta in said:
                bill.note(delta)
            raise Unavailable("it broke off")
    (row,) = await calls(database)
    assert (row.prompt_tokens, row.completion_tokens) == (
        taken.prompt_tokens,
        taken.completion_tokens,
    )
    assert row.status == "failed"
    assert row.estimated == (said != [] and said[-1].usage is None)


async def left_after(made: Accounts, asked: Generation, *said: Delta) -> None:
    """Ask the large model, and leave when it has said so much."""
    begun = asyncio.Event()

    async def asking() -> None:
        async with (await account(made)).paying([FRONTIER], "frontier", asked) as bill:
            for delta in said:
                bill.note(delta)
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(asking())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_caller_who_leaves_is_settled_too(database: Database) -> None:
    await left_after(accounts(database), ASKED, Delta("A"))
    (row,) = await calls(database)
    assert (row.status, row.prompt_tokens, row.estimated) == ("failed", 5, True)
    assert 1 <= row.completion_tokens <= 50


async def test_who_leaves_while_a_model_thinks_pays_for_prompt_and_thoughts(
    database: Database,
) -> None:
    long = Generation((Message("user", "x" * 4000),), 50)
    await left_after(accounts(database), long)
    (row,) = await calls(database)
    assert (row.prompt_tokens, row.estimated) == (1000, True)
    # It had some milliseconds; what a longer thought costs is in `test_bills`.
    assert 1 <= row.completion_tokens <= 50
    assert row.reasoning_tokens == row.completion_tokens
    assert row.cost_nanos == 1000 * 2000 + row.completion_tokens * 8000


async def test_a_road_without_a_model_is_not_paid_for(database: Database) -> None:
    made = accounts(database)
    with pytest.raises(FrontierNotConfigured):
        async with (await account(made)).paying([], "frontier", ASKED):
            raise FrontierNotConfigured("none")
    assert await calls(database) == []


async def test_what_does_not_fit_is_never_asked(database: Database) -> None:
    made = accounts(database, Limit("house", "month", nanos=HELD - 1))
    with pytest.raises(BudgetExceeded):
        async with (await account(made)).paying([FRONTIER], "frontier", ASKED):
            pytest.fail("it was asked")
    async with (await account(made)).paying([EXPERT], "expert", ASKED):
        pass  # the small model fits
    exact = accounts(database, Limit("house", "month", nanos=HELD))
    async with (await account(exact)).paying([FRONTIER], "frontier", ASKED):
        pass


async def test_without_a_ledger_nothing_is_bought_and_our_own_models_answer(tmp_path: Any) -> None:
    made = accounts(Database(str(tmp_path / "missing" / "ledger.db")))
    unwritten = await account(made)
    assert not unwritten.written
    with pytest.raises(LedgerUnavailable):
        async with unwritten.paying([FRONTIER], "frontier", ASKED):
            pytest.fail("it was bought")
    async with unwritten.paying([EXPERT], "expert", ASKED) as bill:
        bill.note(Delta("Hello", "stop", Usage(3, 1)))
    await unwritten.close({"status": "ok"})


async def test_whichever_model_answers_is_paid_and_the_dearest_is_held_for(
    database: Database,
) -> None:
    made = accounts(database)
    async with (await account(made)).paying([EXPERT, FRONTIER], "frontier", ASKED) as bill:
        (row,) = await calls(database)
        assert row.held_nanos == HELD
        bill.note(Delta("x", "stop", Usage(20, 7), model=FRONTIER, provider_id="req-1"))
    (row,) = await calls(database)
    assert (row.model, row.provider_id) == (FRONTIER, "req-1")
    assert row.cost_nanos == 20 * 2000 + 7 * 8000


async def test_a_claim_beyond_the_bound_is_booked_told_and_closes_the_door(
    database: Database,
) -> None:
    told: list[str] = []
    made = Accounts(
        Book(database, [Limit("house", "month", nanos=10 * HELD)]), prices(), told.append
    )
    answer = await account(made)
    async with answer.paying([FRONTIER], "frontier", ASKED) as bill:
        bill.note(Delta("x", "stop", Usage(10**9, 7)))
    (row,) = await calls(database)
    assert (row.prompt_tokens, row.cost_nanos) == (10**9, 10**9 * 2000 + 7 * 8000)
    assert told == [FRONTIER]
    # Also to the next call of the same answer, and to a model of our own.
    for model in (FRONTIER, EXPERT):
        with pytest.raises(BudgetExceeded):
            async with answer.paying([model], "again", ASKED):
                pytest.fail("it was asked")


async def test_a_claim_within_the_bound_alerts_nobody(database: Database) -> None:
    told: list[str] = []
    made = Accounts(Book(database), prices(), told.append)
    async with (await account(made)).paying([FRONTIER], "frontier", ASKED) as bill:
        bill.note(Delta("x", "stop", Usage(164, 50)))
    assert told == []


async def test_each_try_that_may_be_billed_is_a_row_and_held_for(database: Database) -> None:
    made = accounts(database)
    async with (await account(made)).paying([FRONTIER], "frontier", ASKED) as bill:
        await bill.lose([Lost(FRONTIER)])
        states = [(row.status, row.held_nanos) for row in await calls(database)]
        assert sorted(states) == [("failed", HELD), ("open", HELD)]
        bill.note(Delta("x", "stop", Usage(20, 7)))
    rows = {row.status: row for row in await calls(database)}
    assert (rows["failed"].prompt_tokens, rows["failed"].estimated) == (5, True)
    assert rows["failed"].cost_nanos >= 5 * 2000
    assert (rows["ok"].prompt_tokens, rows["ok"].completion_tokens) == (20, 7)


@pytest.mark.parametrize(
    "error",
    [
        RoadBarred("a pin keeps it in the house"),
        FrontierRefused("a wrong key"),
        Overloaded("the provider is full"),
        Unavailable("the provider cannot be reached"),
        InvalidRequest("the provider refuses it"),
    ],
)
async def test_what_nobody_worked_on_was_not_bought(database: Database, error: Exception) -> None:
    answer = await account(accounts(database))
    with contextlib.suppress(type(error)):
        async with answer.paying([FRONTIER], "frontier", ASKED):
            assert answer.bought
            raise error
    assert not answer.bought


@pytest.mark.parametrize("said", [Delta("Because"), Delta(usage=Usage(20, 0))])
async def test_what_broke_off_was_bought(database: Database, said: Delta) -> None:
    answer = await account(accounts(database))
    with contextlib.suppress(Unavailable):
        async with answer.paying([FRONTIER], "frontier", ASKED) as bill:
            bill.note(said)
            raise Unavailable("it broke off")
    assert answer.bought


async def test_a_try_for_which_nothing_is_left_ends_the_call(database: Database) -> None:
    made = accounts(database, Limit("house", "month", nanos=HELD))
    async with (await account(made)).paying([FRONTIER], "frontier", ASKED) as bill:
        with pytest.raises(BudgetExceeded):
            await bill.lose([Lost(FRONTIER)])
    (row,) = await calls(database)
    assert (row.status, row.estimated) == ("failed", True)
    spent = select(tables.counters.c.nanos, tables.counters.c.held_nanos)
    balances = await database.read(lambda it: it.execute(spent).all())
    assert {tuple(each) for each in balances} == {(row.cost_nanos, 0)}


async def test_the_last_try_is_paid_for_where_none_follows(database: Database) -> None:
    made = accounts(database)
    with contextlib.suppress(Unavailable):
        async with (await account(made)).paying([FRONTIER], "frontier", ASKED) as bill:
            await bill.lose([Lost(FRONTIER, again=False)])
            raise Unavailable("it broke off")
    (row,) = await calls(database)
    assert (row.status, row.prompt_tokens, row.estimated) == ("failed", 5, True)


async def test_what_a_dead_replica_of_ours_had_asked_is_paid_for(database: Database) -> None:
    answer = await account(accounts(database))
    with pytest.raises(ReplicaDied):
        async with answer.paying([FRONTIER], "frontier", ASKED):
            raise ReplicaDied("the frontier road is restarting")
    assert answer.bought
    (row,) = await calls(database)
    assert (row.prompt_tokens, row.estimated) == (5, True)
