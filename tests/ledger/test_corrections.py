"""A broken upstream's claim has shut a limit: an operator opens it again, and says why."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from sqlalchemy import select

from serve_app.domain import Delta, Generation, Message, RequestContext, Usage
from serve_app.errors import BudgetExceeded, InvalidRequest, NotFound
from serve_app.ledger import tables
from serve_app.ledger.accounts import Accounts
from serve_app.ledger.book import Book
from serve_app.ledger.corrections import correct
from serve_app.ledger.database import Database
from serve_app.ledger.entries import Settlement
from serve_app.ledger.limits import Amount, Limit
from tests.fixtures import FRONTIER, prices
from tests.ledger.test_book import ANN, Clock, hold

ASKED = Generation((Message("user", "Why?"),), 50)


async def test_what_is_corrected_is_free_again(database: Database) -> None:
    book = Book(database, [Limit("house", "month", nanos=10**10)])
    made = Accounts(book, prices())
    answer = await made.open(RequestContext("r", time.time() + 60), "trivium/auto", None)
    async with answer.paying([FRONTIER], "frontier", ASKED) as bill:
        bill.note(Delta("x", "stop", Usage(10**9, 7)))
    await answer.close({"status": "ok", "cost_nanos": 10**9 * 2000 + 7 * 8000})
    with pytest.raises(BudgetExceeded):
        async with answer.paying([FRONTIER], "frontier", ASKED):
            pytest.fail("it was asked")
    done = await correct(
        database, prices(), bill.id, Usage(100, 7, 20), "broken upstream", time.time()
    )
    assert (done.before, done.before_usd) == (Usage(10**9, 7), 2000.000056)
    async with answer.paying([FRONTIER], "frontier", ASKED):
        pass
    cost = 100 * 2000 + 7 * 8000
    calls, counters, answers = tables.calls.c, tables.counters.c, tables.answers.c
    chosen = select(calls.cost_nanos, calls.cached_tokens, calls.status).where(calls.id == bill.id)
    assert await database.read(lambda it: tuple(it.execute(chosen).one())) == (
        cost,
        20,
        "corrected",
    )
    balances = select(counters.nanos, counters.tokens)
    found = await database.read(lambda it: it.execute(balances).all())
    assert {tuple(each) for each in found} == {(cost, 107)}
    assert await database.read(lambda it: it.execute(select(answers.cost_nanos)).scalar()) == cost
    (row,) = await database.read(lambda it: it.execute(select(tables.corrections)).all())
    assert (row.call_id, row.note, row.prompt_tokens_before, row.prompt_tokens) == (
        bill.id,
        "broken upstream",
        10**9,
        100,
    )
    await book.close()


async def test_a_call_under_way_or_unknown_is_not_corrected(database: Database) -> None:
    book, begun = Book(database, [], Clock()), hold(10)
    await book.ask(begun)
    with pytest.raises(InvalidRequest, match="under way"):
        await correct(database, prices(), begun.id, Usage(1, 1), "", 0)
    with pytest.raises(NotFound, match="no call"):
        await correct(database, prices(), "f" * 32, Usage(1, 1), "", 0)
    await book.close()


async def test_a_lost_call_that_was_corrected_is_not_settled_again(database: Database) -> None:
    book = Book(database, [], Clock())
    begun = replace(hold(10), row={"model": FRONTIER, "purpose": "frontier", "adapter": None})
    await book.ask(begun)
    ahead = Book(database, clock=lambda: begun.deadline + 3600)
    assert await ahead.release() == 1
    await correct(database, prices(), begun.id, Usage(1, 1), "from the invoice", 0)
    await book.tell(Settlement(begun, Amount(0, 9, 9), {"status": "ok"}))
    counters = tables.counters.c
    chosen = select(counters.nanos).where(counters.scope == f"tenant:{ANN.tenant}")
    found = await database.read(lambda it: it.execute(chosen).scalars().all())
    assert set(found) == {2000 + 8000}
    await book.close()
    await ahead.close()
