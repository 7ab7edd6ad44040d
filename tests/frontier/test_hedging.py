"""Several outside models, or tries, for one answer: who speaks, and who is paid. Real sockets and
a real ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import date
from typing import Any

import pytest

from serve_app.domain import Delta, Generation, Message, RequestContext
from serve_app.errors import BudgetExceeded, InvalidRequest, Unavailable
from serve_app.frontier.upstreams import Upstreams
from serve_app.ledger import tables
from serve_app.ledger.accounts import Accounts
from serve_app.ledger.bills import Bill
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.limits import Limit
from serve_app.ledger.prices import PriceTable, TokenPrice
from serve_app.orchestration.calling import Calls
from serve_app.orchestration.run import Run
from serve_app.settings import FrontierSettings
from tests.fixtures import close_books, ledger_file, opened
from tests.frontier.test_retrying import Server
from tests.frontier.wire import KEY, Handler, receive

ASKED = Generation((Message("user", "Why is the sky blue?"),), max_tokens=50)
NAMES = ["slow", "quick"]
AT_ONCE, NEVER = 0.01, 60.0
_TOLD: dict[str, Any] = {"source": "test", "as_of": date(2026, 1, 1)}
PRICES = PriceTable({name: TokenPrice(input=2, output=8, **_TOLD) for name in NAMES}, {})


class House:
    """Both models, and a ledger in which calls of them are written."""

    def __init__(self, upstreams: Upstreams, hedge_after_s: float | None, *limits: Limit) -> None:
        self._upstreams = upstreams
        self.database = Database(str(ledger_file()))
        self._accounts = Accounts(opened(Book(self.database, limits)), PRICES)
        self._hedge_after_s = hedge_after_s
        self.run: Run | None = None
        self.refused = asyncio.Event()  # a call did not fit into a limit

    def generate(self, context: RequestContext, asked: Generation) -> AsyncGenerator[Delta]:
        return self._upstreams.generate(asked, context.deadline)

    async def answer(self) -> str:
        """The answer to `ASKED`; what it took is on `run` and in the ledger."""
        context = RequestContext("r", time.time() + 20)
        self._account = await self._accounts.open(context, "trivium/frontier", None)
        self.run = Run(context, self)
        calls = Calls(self.run, self, "frontier", self._hedge_after_s)
        said, bill = "", None
        try:
            async with aclosing(calls.steps(NAMES, ASKED)) as steps:
                async for step in steps:
                    bill = step[0]
                    said += step[1].text
        finally:
            calls.note(bill, ASKED)
        return said

    @property
    def bought(self) -> bool:
        return self._account.bought

    @asynccontextmanager
    async def paying(
        self, models: Sequence[str], purpose: str, generation: Generation
    ) -> AsyncIterator[Bill]:
        try:
            async with self._account.paying(models, purpose, generation) as bill:
                yield bill
        except BudgetExceeded:
            self.refused.set()
            raise

    async def rows(self) -> Sequence[Any]:
        chosen = tables.calls.select().order_by(tables.calls.c.started_at)
        return await self.database.read(lambda it: it.execute(chosen).all())


class Silent:
    """A provider that takes a request and says nothing until its caller has left."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        self.asked.set()
        await reader.read()
        self.left.set()


class Late(Server):
    """A provider that answers when it may."""

    def __init__(self) -> None:
        super().__init__("openai", "good")
        self.may_speak = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.may_speak.wait()
        await super().handle(reader, writer)


@asynccontextmanager
async def house(
    first: Server | Silent, second: Server | Silent, hedge_after_s: float | None, *limits: Limit
) -> AsyncIterator[House]:
    named, listening = [], []
    for server, name in zip((first, second), NAMES, strict=True):
        listener = await asyncio.start_server(_closing(server.handle), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
        named.append({"provider": "openai", "model": name, "base_url": url, "api_key": KEY})
        listening.append(listener)
    settings = {**named[0], "fallbacks": named[1:], "retries": 0}
    try:
        yield House(Upstreams(FrontierSettings.model_validate(settings)), hedge_after_s, *limits)
    finally:
        await close_books()
        for listener in listening:
            listener.close()


def _closing(handler: Handler) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await handler(reader, writer)
            writer.close()

    return handle


def good() -> Server:
    return Server("openai", "good")


async def test_who_speaks_in_time_answers_alone() -> None:
    first, second = good(), good()
    async with house(first, second, NEVER) as asked:
        assert await asked.answer() == "Héllo"
        assert [(row.model, row.status) for row in await asked.rows()] == [("slow", "ok")]
    assert (first.requests, second.requests) == (1, 0)


async def test_the_next_one_answers_for_who_is_slow_and_both_are_paid() -> None:
    slow, quick = Silent(), good()
    async with house(slow, quick, AT_ONCE) as asked:
        assert await asked.answer() == "Héllo"
        await asyncio.wait_for(slow.left.wait(), 5)
        left, answered = await asked.rows()
        assert asked.run is not None
        assert [call.model for call in asked.run.calls] == ["quick"]
        assert [call.model for call in asked.run.beside] == ["slow"]
    assert (answered.model, answered.status, answered.completion_tokens) == ("quick", "ok", 5)
    # Nobody has counted what the other one had read: its prompt, roughly.
    assert (left.model, left.status, left.estimated) == ("slow", "failed", True)
    assert left.prompt_tokens > 0
    # It may have thought for as long as it was silent.
    assert 1 <= left.reasoning_tokens <= ASKED.max_tokens
    assert left.cost_nanos == left.prompt_tokens * 2000 + left.completion_tokens * 8000


async def test_the_first_one_answers_if_it_speaks_before_the_second_after_all() -> None:
    quiet = Silent()
    async with house(good(), quiet, AT_ONCE / 1e6) as asked:
        assert await asked.answer() == "Héllo"
        assert asked.run is not None
        assert [call.model for call in asked.run.calls] == ["slow"]


@pytest.mark.parametrize("broken", [500, 429, 401, 400, "drop"])
async def test_who_fails_is_not_waited_for(broken: int | str) -> None:
    first = Server("openai", broken)
    async with house(first, good(), NEVER) as asked:
        assert await asked.answer() == "Héllo"
        failed, answered = await asked.rows()
    assert (failed.status, answered.status) == ("failed", "ok")
    # Who breaks off may have read the prompt; who refuses, or fails by its status, has not.
    assert (failed.cost_nanos > 0, failed.estimated) == (
        (True,) * 2 if broken == "drop" else (False,) * 2
    )
    assert first.requests == 1


async def test_a_second_that_fails_does_not_matter() -> None:
    async with house(good(), Server("openai", 500), AT_ONCE / 1e6) as asked:
        assert await asked.answer() == "Héllo"


async def test_where_neither_can_the_last_one_says_why() -> None:
    async with house(Server("openai", 500), Server("openai", 503), NEVER) as asked:
        with pytest.raises(Unavailable, match="503"):
            await asked.answer()
        assert [row.status for row in await asked.rows()] == ["failed", "failed"]


@pytest.mark.parametrize("after", [NEVER, None], ids=["hedged", "in order"])
@pytest.mark.parametrize(
    ("first", "second", "error"),
    [(503, 400, Unavailable), (400, 503, Unavailable), (400, 400, InvalidRequest)],
)
async def test_what_one_refuses_is_told_only_if_the_other_refuses_it_too(
    first: int, second: int, error: type[Exception], after: float | None
) -> None:
    async with house(Server("openai", first), Server("openai", second), after) as asked:
        with pytest.raises(error):
            await asked.answer()


async def test_what_breaks_in_the_middle_is_not_taken_over() -> None:
    second = good()
    async with house(Server("openai", "half"), second, NEVER) as asked:
        with pytest.raises(Unavailable):
            await asked.answer()
    assert second.requests == 0


async def test_a_hedge_that_does_not_fit_into_a_limit_is_not_bought() -> None:
    late, second = Late(), good()
    room = PRICES.nanos("slow", Bill(ASKED).bound)
    async with house(late, second, AT_ONCE, Limit("house", "day", nanos=room)) as asked:
        asked.refused = late.may_speak
        assert await asked.answer() == "Héllo"
        (row,) = await asked.rows()
    assert (row.model, row.status) == ("slow", "ok")
    assert second.requests == 0


async def test_who_leaves_leaves_both() -> None:
    first, second = Silent(), Silent()
    async with house(first, second, AT_ONCE) as asked:
        answering = asyncio.create_task(asked.answer())
        await asyncio.wait_for(asyncio.gather(first.asked.wait(), second.asked.wait()), 5)
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        await asyncio.wait_for(asyncio.gather(first.left.wait(), second.left.wait()), 5)
        assert [(row.status, row.estimated) for row in await asked.rows()] == [
            ("failed", True),
            ("failed", True),
        ]


async def test_a_try_that_broke_off_is_paid_for_beside_the_one_that_answered() -> None:
    first = Server("openai", "drop")
    async with house(first, good(), None) as asked:
        assert await asked.answer() == "Héllo"
        broke, answered = await asked.rows()
        assert asked.run is not None
        on_the_run = [*asked.run.calls, *asked.run.beside]
    assert (broke.model, broke.status, broke.estimated) == ("slow", "failed", True)
    assert (answered.model, answered.status, answered.estimated) == ("quick", "ok", False)
    assert first.requests == 1
    # What the caller is told it cost is what the ledger has.
    told = sum(PRICES.nanos(call.model, call.usage) for call in on_the_run)
    assert told == broke.cost_nanos + answered.cost_nanos


async def test_where_every_try_breaks_off_each_is_paid_for() -> None:
    async with house(Server("openai", "drop"), Server("openai", "drop"), None) as asked:
        with pytest.raises(Unavailable):
            await asked.answer()
        rows = await asked.rows()
    assert [(row.model, row.status) for row in rows] == [("slow", "failed"), ("quick", "failed")]
    assert all(row.cost_nanos > 0 for row in rows)


async def test_a_next_try_is_not_bought_with_what_is_not_left() -> None:
    room = PRICES.nanos("slow", Bill(ASKED).bound)
    silent = Silent()
    limit = Limit("house", "day", nanos=room)
    async with house(Server("openai", "drop"), silent, None, limit) as asked:
        with pytest.raises(BudgetExceeded):
            await asked.answer()
        (row,) = await asked.rows()
    assert (row.model, row.estimated) == ("slow", True)
