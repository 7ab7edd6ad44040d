"""Many requests, several gateway processes, one budget: it holds to the last digit."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from serve_app.ledger import tables
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from tests.frontier.wire import chunked, events, receive, start

ASKED = 500
MOST = 64  # tokens of an answer
# What the provider claims for each answer, and invoices: far less than what is held for it.
CLAIMED = 20 * 2000 + 5 * 8000
LIMIT = 200 * CLAIMED
USD = f"{LIMIT / 1e9:.9f}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Replica:
    """A gateway process."""

    def __init__(self, address: str, frontier: str = "good", usd: str = USD) -> None:
        self.port = free_port()
        arguments = [str(self.port), address, usd, frontier]
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


async def held_for_one(database: Database) -> int:
    """Nanodollars, the same for each of the requests here."""
    chosen = select(tables.calls.c.held_nanos).distinct()
    return await database.read(lambda it: int(it.execute(chosen).scalar_one()))


async def all_held(database: Database, calls: int) -> None:
    """Returns when so many are under way."""
    while True:
        if (await booked(database))["open"] == calls:
            return
        await asyncio.sleep(0.02)


async def race(http: httpx.AsyncClient, replicas: Sequence[Replica], count: int) -> int:
    """Ask so much at once; returns how many were answered. The others were refused by the limit."""
    asked = [ask(http, replicas[n % len(replicas)]) for n in range(count)]
    answers = await asyncio.gather(*asked)
    refusals = [body["error"]["code"] for status, body in answers if status == 429]
    assert set(refusals) <= {"budget_exceeded"}
    answered = sum(status == 200 for status, _ in answers)
    assert answered + len(refusals) == count
    return answered


async def until_refused(http: httpx.AsyncClient, replicas: Sequence[Replica]) -> int:
    """Ask on until nothing fits any more; returns how many were answered."""
    answered = 0
    while more := await race(http, replicas, 4):
        answered += more
    return answered


async def watched(database: Database, most: list[int]) -> None:
    """Notes the most that was ever spent and held together."""
    while True:
        most.append(sum(await house(database)))
        await asyncio.sleep(0.005)


async def test_no_race_passes_the_budget_and_nothing_that_fits_is_refused(
    replica: Callable[..., Replica], database: Database
) -> None:
    working = [replica(), replica(), replica()]
    await asyncio.gather(*(each.ready() for each in working))
    most: list[int] = []
    watching = asyncio.create_task(watched(database, most))
    async with client() as http:
        answered = await race(http, working, ASKED)
        # As many as what is held for one fits in beside what the others took: more cannot race.
        bound = await held_for_one(database)
        assert answered >= LIMIT // bound
        answered += await until_refused(http, working)
    watching.cancel()
    assert await house(database) == (answered * CLAIMED, 0)
    assert LIMIT - bound < answered * CLAIMED <= LIMIT
    assert max(most) <= LIMIT
    assert await booked(database) == {"ok": answered}


async def test_what_a_killed_replica_held_is_free_again_and_no_cent_more(
    replica: Callable[..., Replica], database: Database
) -> None:
    working, victim = [replica(), replica()], replica("hang")
    await asyncio.gather(*(each.ready() for each in (*working, victim)))
    held = 8
    async with client() as http:
        hanging = [asyncio.ensure_future(ask(http, victim)) for _ in range(held)]
        await all_held(database, held)
        bound = await held_for_one(database)
        racing = asyncio.ensure_future(race(http, working, ASKED // 5))
        victim.process.kill()
        answered = await racing + await until_refused(http, working)
        lost = await asyncio.gather(*hanging, return_exceptions=True)
        assert all(isinstance(each, httpx.TransportError) for each in lost)
        assert await house(database) == (answered * CLAIMED, held * bound)
        assert LIMIT - bound < answered * CLAIMED + held * bound <= LIMIT
        # Its leases end, which here is a clock that runs ahead.
        ahead = Book(database, clock=lambda: time.time() + 3600)
        assert await ahead.release() == held
        answered += await until_refused(http, working)
    assert await house(database) == (answered * CLAIMED, 0)
    assert LIMIT - bound < answered * CLAIMED <= LIMIT
    assert await booked(database) == {"ok": answered, "lost": held}


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
    assert spent == booked_ok * CLAIMED
