"""What a call may cost is known before; what it did cost is never more, whatever is claimed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from serve_app.domain import (
    Delta,
    Generation,
    Image,
    Message,
    RequestContext,
    ToolCall,
    Usage,
)
from serve_app.errors import (
    BudgetExceeded,
    FrontierNotConfigured,
    LedgerUnavailable,
    Unavailable,
)
from serve_app.ledger import tables
from serve_app.ledger.accounts import Account, Accounts, Bill
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.limits import Limit
from tests.fixtures import EXPERT, FRONTIER, ledger_file, prices

ASKED = Generation((Message("user", "Why is the sky blue?"),), max_tokens=50)


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


def test_tools_and_pictures_are_within_the_bound() -> None:
    call = ToolCall(0, "call_1", "weather", '{"city": "Bergen"}' * 100)
    picture = Image("data:image/png;base64," + "A" * 1_000_000)
    plain = Bill(ASKED).bound.prompt_tokens
    asked = ASKED.messages[0]
    called = replace(ASKED, messages=(asked, Message("assistant", "", tool_calls=(call,))))
    shown = replace(ASKED, messages=(replace(asked, parts=(asked.content, picture)),))
    offered = replace(ASKED, options={"tools": [{"function": {"description": "word " * 1000}}]})
    assert Bill(called).bound.prompt_tokens >= plain + 1800
    # As many tokens as the models that look closest count, not as many as its bytes.
    assert 4784 <= Bill(shown).bound.prompt_tokens - plain < 10_000
    assert Bill(offered).bound.prompt_tokens >= plain + 5000


def test_what_a_model_writes_into_calls_is_counted() -> None:
    bill = Bill(ASKED)
    bill.note(Delta(tool_calls=(ToolCall(0, "call_1", "weather", "{}"),)))
    assert bill.usage.completion_tokens >= 1


async def test_a_call_is_written_down_before_it_is_made(database: Database) -> None:
    made = accounts(database)
    async with (await account(made)).paying([FRONTIER], "frontier", ASKED) as bill:
        (row,) = await calls(database)
        assert (row.status, row.model, row.tenant) == ("open", FRONTIER, "acme")
        assert row.held_nanos == prices().nanos(FRONTIER, bill.bound)
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
        async with (await account(made)).paying([FRONTIER], "frontier", ASKED) as bill:
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


async def test_a_caller_who_leaves_is_settled_too(database: Database) -> None:
    made, begun = accounts(database), asyncio.Event()

    async def asking() -> None:
        async with (await account(made)).paying([FRONTIER], "frontier", ASKED) as bill:
            bill.note(Delta("A"))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(asking())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (row,) = await calls(database)
    assert (row.status, row.prompt_tokens, row.completion_tokens) == ("failed", 5, 1)


async def test_who_leaves_before_the_first_word_has_had_their_prompt_read(
    database: Database,
) -> None:
    made, begun = accounts(database), asyncio.Event()
    long = Generation((Message("user", "x" * 4000),), 50)

    async def asking() -> None:
        async with (await account(made)).paying([FRONTIER], "frontier", long):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(asking())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (row,) = await calls(database)
    assert (row.prompt_tokens, row.completion_tokens, row.estimated) == (1000, 0, True)
    assert row.cost_nanos == 1000 * 2000


async def test_a_road_without_a_model_is_not_paid_for(database: Database) -> None:
    made = accounts(database)
    with pytest.raises(FrontierNotConfigured):
        async with (await account(made)).paying([], "frontier", ASKED):
            raise FrontierNotConfigured("none")
    assert await calls(database) == []


async def test_what_does_not_fit_is_never_asked(database: Database) -> None:
    bound = prices().nanos(FRONTIER, Bill(ASKED).bound)
    made = accounts(database, Limit("house", "month", nanos=bound - 1))
    with pytest.raises(BudgetExceeded):
        async with (await account(made)).paying([FRONTIER], "frontier", ASKED):
            pytest.fail("it was asked")
    async with (await account(made)).paying([EXPERT], "expert", ASKED):
        pass  # the small model fits


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


numbers = st.integers(-(10**12), 10**12)


@given(numbers, numbers, numbers, numbers, st.text(max_size=200))
def test_no_claim_costs_more_than_was_held(
    prompt: int, completion: int, cached: int, reasoning: int, text: str
) -> None:
    bill = Bill(Generation((Message("user", text),), 50, {"stop": [text]}))
    bill.note(Delta("x", "stop", Usage(prompt, completion, cached, reasoning)))
    table = prices()
    assert 0 <= table.nanos(FRONTIER, bill.usage) <= table.nanos(FRONTIER, bill.bound)
    assert 0 <= bill.usage.cached_tokens <= bill.usage.prompt_tokens


@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_a_real_tokenizer_makes_no_more_tokens_than_the_bound(
    tokenizer: Any, texts: list[str]
) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    tokens = len(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    bound = Bill(Generation(tuple(Message("user", text) for text in texts), 1)).bound
    assert tokens <= bound.prompt_tokens


async def test_whichever_model_answers_is_paid_and_the_dearest_is_held_for(
    database: Database,
) -> None:
    made = accounts(database)
    async with (await account(made)).paying([EXPERT, FRONTIER], "frontier", ASKED) as bill:
        (row,) = await calls(database)
        assert row.held_nanos == prices().nanos(FRONTIER, bill.bound)
        bill.note(Delta("x", "stop", Usage(20, 7), model=FRONTIER, provider_id="req-1"))
    (row,) = await calls(database)
    assert (row.model, row.provider_id) == (FRONTIER, "req-1")
    assert row.cost_nanos == 20 * 2000 + 7 * 8000
