"""Many requests, several gateway processes, one budget: it holds to the last digit."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from serve_app.domain import Generation, Message, Usage
from serve_app.ledger import tables
from serve_app.ledger.bills import Bill
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.orchestration.prompts import prompt
from tests.fixtures import FRONTIER, prices
from tests.frontier.wire import chunked, events, receive, start

ROOM = 100
ASKED = 500
MOST = 64  # tokens of an answer


def cost_nanos() -> int:
    """What one of the requests below may cost at most, which is what it does cost."""
    system = Message("system", prompt("frontier").render(sources=False))
    asked = (system, Message("user", "Why?"))
    options = dict(prompt("frontier").options)
    bound = Bill(Generation(asked, MOST, options)).bound
    return prices().nanos(FRONTIER, Usage(bound.prompt_tokens, bound.completion_tokens))


def usd() -> str:
    return f"{ROOM * cost_nanos() / 1e9:.9f}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Replica:
    """A gateway process."""

    def __init__(self, address: str, frontier: str = "good", room: str | None = None) -> None:
        self.port = free_port()
        arguments = [str(self.port), address, room or usd(), frontier]
        command = [sys.executable, "-m", "tests.ledger.gateway_server", *arguments]
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[2])

    async def ready(self) -> None:
        async with httpx.AsyncClient(timeout=5) as client:
            while True:
                assert self.process.poll() is None
                with contextlib.suppress(httpx.TransportError):
                    await client.get(f"http://127.0.0.1:{self.port}/healthz")
                    return
                await asyncio.sleep(0.05)


@pytest.fixture
def replica(address: str, database: Database) -> Iterator[Callable[..., Replica]]:
    """Starts gateways. (`database` has made the tables.)"""
    started = []

    def start(*arguments: str) -> Replica:
        started.append(Replica(address, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits) as opened:
        yield opened


async def ask(http: httpx.AsyncClient, replica: Replica) -> tuple[int, dict[str, Any]]:
    body = {
        "model": "trivium/frontier",
        "messages": [{"role": "user", "content": "Why?"}],
        "max_completion_tokens": MOST,
    }
    url = f"http://127.0.0.1:{replica.port}/v1/chat/completions"
    answer = await http.post(url, json=body)
    return answer.status_code, answer.json()


async def house(database: Database) -> tuple[int, int]:
    """Nanodollars that the house has spent, and holds, this month."""
    counters = tables.counters.c
    month = time.strftime("%Y-%m", time.gmtime())
    chosen = select(counters.nanos, counters.held_nanos).where(
        counters.scope == "house", counters.period == month
    )
    row = await database.read(lambda it: it.execute(chosen).one_or_none())
    return (row.nanos, row.held_nanos) if row else (0, 0)


async def booked(database: Database) -> Counter[str]:
    """How many calls are in which state."""
    calls = tables.calls.c
    counted = select(calls.status, func.count()).group_by(calls.status)
    return await database.read(lambda it: Counter(dict(it.execute(counted).tuples().all())))


async def all_held(database: Database, calls: int) -> None:
    """Returns when so many are under way."""
    while True:
        if (await booked(database))["open"] == calls:
            return
        await asyncio.sleep(0.02)


async def test_exactly_as_many_pass_as_the_budget_has_room_for(
    replica: Callable[..., Replica], database: Database
) -> None:
    working = [replica(), replica(), replica()]
    await asyncio.gather(*(each.ready() for each in working))
    async with client() as http:
        asked = [ask(http, working[n % len(working)]) for n in range(ASKED)]
        answers = await asyncio.gather(*asked)
    statuses = Counter(status for status, _ in answers)
    assert statuses == {200: ROOM, 429: ASKED - ROOM}
    refusals = [body["error"] for status, body in answers if status == 429]
    assert {error["code"] for error in refusals} == {"budget_exceeded"}
    assert await house(database) == (ROOM * cost_nanos(), 0)
    assert await booked(database) == {"ok": ROOM}


async def test_what_a_killed_replica_held_is_free_again_and_no_cent_more(
    replica: Callable[..., Replica], database: Database
) -> None:
    working, victim = [replica(), replica()], replica("hang")
    await asyncio.gather(*(each.ready() for each in (*working, victim)))
    held = ROOM // 4
    async with client() as http:
        hanging = [asyncio.ensure_future(ask(http, victim)) for _ in range(held)]
        await all_held(database, held)
        racing = [asyncio.ensure_future(ask(http, working[n % 2])) for n in range(ASKED)]
        victim.process.kill()
        answers = await asyncio.gather(*racing)
        lost = await asyncio.gather(*hanging, return_exceptions=True)
        assert all(isinstance(each, httpx.TransportError) for each in lost)
        assert Counter(status for status, _ in answers)[200] == ROOM - held
        assert await house(database) == ((ROOM - held) * cost_nanos(), held * cost_nanos())
        # Its leases end, which here is a clock that runs ahead.
        ahead = Book(database, clock=lambda: time.time() + 3600)
        assert await ahead.release() == held
        again = await asyncio.gather(*(ask(http, working[n % 2]) for n in range(ROOM)))
    assert Counter(status for status, _ in again) == {200: held, 429: ROOM - held}
    assert await house(database) == (ROOM * cost_nanos(), 0)
    assert await booked(database) == {"ok": ROOM, "lost": held}


async def test_every_request_that_a_provider_saw_is_in_the_ledger(
    replica: Callable[..., Replica], database: Database
) -> None:
    """Gateways are killed in the middle of asking, the provider's own list is compared."""
    seen: list[str] = []

    async def provide(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head, _ = await receive(reader)
                seen.append(head.split("x-client-request-id: ")[1].split("\r\n")[0])
                if len(seen) == 40:
                    full.set()
                # Every third one is still waiting when its gateway dies.
                if len(seen) % 3:
                    start(writer)
                    writer.write(chunked(events("openai")) + chunked(b""))
                    await writer.drain()

    full = asyncio.Event()
    provider = await asyncio.start_server(provide, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{provider.sockets[0].getsockname()[1]}/v1"
    replicas = [replica(url, "1000"), replica(url, "1000")]
    await asyncio.gather(*(each.ready() for each in replicas))
    async with client() as http:
        asked = [asyncio.ensure_future(ask(http, replicas[n % 2])) for n in range(60)]
        await full.wait()
        for each in replicas:
            each.process.kill()
        answers = await asyncio.gather(*asked, return_exceptions=True)
    provider.close()
    answered = [each for each in answers if not isinstance(each, BaseException)]
    ahead = Book(database, clock=lambda: time.time() + 3600)
    await ahead.release()
    calls = tables.calls.c
    chosen = select(calls.id, calls.status)
    states = await database.read(lambda it: dict(it.execute(chosen).tuples().all()))
    assert set(seen) <= set(states)
    assert len(set(seen)) == len(seen)
    booked_ok = sum(state == "ok" for state in states.values())
    # Who has an answer has it in the ledger; some died with theirs on its way.
    assert sum(status == 200 for status, _ in answered) <= booked_ok <= len(seen)
    assert set(states.values()) <= {"ok", "lost"}
    spent, held = await house(database)
    assert held == 0
    cost = prices().nanos(FRONTIER, Usage(20, 5, 8))
    assert spent == booked_ok * cost
