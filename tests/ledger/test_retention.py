"""What is too old is removed, in small steps; what limits and reports need is not."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select, text

from serve_app.ledger import retention, tables
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.limits import Limit, counters
from serve_app.ledger.retention import DAY_S, Pruned, prune
from tests.cli.conftest import Run, run
from tests.fixtures import ledger_file
from tests.ledger.test_book import ANN, NOON, Clock, hold, opening, settled

__all__ = ["run"]  # the fixture


def answer(moment: float, status: str = "ok") -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex,
        "request_id": "r",
        "started_at": moment,
        "day": "2026-01-01",
        "lease_until": moment + 60,
        "tenant": "acme",
        "api_key": "ann",
        "status": status,
        "asked_model": "trivium/auto",
        "degraded": "",
        "good": True,
    }


def call(answered: dict[str, Any]) -> dict[str, Any]:
    same = ("started_at", "lease_until", "tenant", "api_key", "status")
    row = {name: answered[name] for name in same}
    ids = {"id": uuid.uuid4().hex, "answer_id": answered["id"]}
    held = {"held_nanos": 1, "held_tokens": 1}
    return {**row, **ids, **held, "model": "m", "purpose": "p", "cost_nanos": 5}


def corrected(booked: dict[str, Any]) -> dict[str, Any]:
    amounts = ("prompt_tokens", "completion_tokens", "cost_nanos")
    zeros = {name + end: 0 for name in amounts for end in ("", "_before")}
    row = {"id": uuid.uuid4().hex, "call_id": booked["id"], "corrected_at": 0.0, "note": ""}
    return {**row, **zeros}


async def write(database: Database, *rows: tuple[Any, list[dict[str, Any]]]) -> None:
    def all_of_them(connection: Connection) -> None:
        for table, each in rows:
            connection.execute(insert(table), each)

    await database.write(all_of_them)


async def count(database: Database, table: Any) -> int:
    counted = select(func.count()).select_from(table)
    return await database.read(lambda it: int(it.execute(counted).scalar_one()))


async def periods_left(database: Database) -> set[str]:
    chosen = select(tables.counters.c.period)
    return await database.read(lambda it: set(it.execute(chosen).scalars()))


async def test_answers_go_with_their_calls_and_what_was_said_of_them(database: Database) -> None:
    old = [answer(NOON - 31 * DAY_S - n) for n in range(12)]
    young = [answer(NOON - 29 * DAY_S), answer(NOON - 90 * DAY_S, "open")]
    booked = [call(each) for each in (*old, *young)]
    await write(
        database,
        (tables.answers, [*old, *young]),
        (tables.calls, [*booked, call(old[0])]),
        (tables.corrections, [corrected(booked[0]), corrected(booked[-1])]),
    )
    expected = Pruned(answers=12, calls=13, corrections=1)
    assert await retention.due(database, 30, NOON) == expected
    assert await count(database, tables.answers) == 14
    assert await prune(database, 30, NOON, batch=5) == expected
    left = select(tables.answers.c.id)
    found = await database.read(lambda it: set(it.execute(left).scalars()))
    assert found == {each["id"] for each in young}
    assert await count(database, tables.calls) == 2
    assert await count(database, tables.corrections) == 1
    assert not await prune(database, 30, NOON)


async def test_without_a_retention_nothing_but_old_minutes_goes(database: Database) -> None:
    await write(database, (tables.answers, [answer(NOON - 3000 * DAY_S)]))
    assert not await prune(database, None, NOON)
    assert await count(database, tables.answers) == 1


async def test_counters_go_when_no_limit_needs_them(database: Database) -> None:
    book = Book(database, [], Clock())
    days_ago = (0, 1, 2, 3, 10, 30, 70, 500)
    for back in days_ago:
        await book.ask(opening(moment=NOON - back * DAY_S))
    await prune(database, None, NOON)
    left = await periods_left(database)
    kept = {"2026-09-21T12:00", "2026-09-20T12:00", "2026-09-19T12:00"}
    assert {period for period in left if "T" in period} - kept == {
        "2026-07-13T12:00",
        "2025-05-09T12:00",
    }
    assert {"2025-05", "2026-07", "2026-09", "2026-09-21", "2025-05-09"} <= left
    # However few days of answers are kept, this month and the one before it stay.
    await prune(database, 1, NOON)
    left = await periods_left(database)
    assert {"2026-09", "2026-08", "2026-07", "2026-07-13"} <= left
    assert "2025-05" not in left
    assert {period for period in left if "T" in period} - kept == {"2026-07-13T12:00"}
    await book.close()


async def test_a_limit_holds_over_a_prune(database: Database) -> None:
    book = Book(database, [Limit("house", "month", nanos=100)], Clock())
    begun = hold(100)
    await book.ask(begun)
    await book.tell(settled(begun, 100))
    before = [counters(ANN, NOON)[0], counters(ANN, NOON)[2]]
    await prune(database, 1, NOON + 3 * DAY_S)
    left = await periods_left(database)
    assert {period for _, period in before} & left == {"2026-09"}
    await book.close()


def test_a_table_of_many_counters_is_not_read_whole() -> None:
    explained = text(f"EXPLAIN QUERY PLAN {_over()}")

    async def plan() -> list[str]:
        database = Database(str(ledger_file()))
        found = await database.read(lambda it: [str(row) for row in it.execute(explained)])
        await database.close()
        return found

    steps = asyncio.run(plan())
    assert any("counters_by_period" in step for step in steps)
    assert not any("SCAN" in step for step in steps)


def _over() -> str:
    chosen = tables.counters.delete().where(retention.over(30, NOON))
    return str(chosen.compile(compile_kwargs={"literal_binds": True}))


async def test_those_who_ask_are_served_meanwhile(database: Database) -> None:
    rows = [answer(NOON - 40 * DAY_S) for _ in range(3000)]
    await write(database, (tables.answers, rows), (tables.calls, [call(each) for each in rows]))
    book = Book(database, [], Clock())
    pruning = asyncio.create_task(prune(database, 30, NOON, batch=100))
    waits = []
    while not pruning.done():
        began = time.monotonic()
        await book.ask(hold(1))
        waits.append(time.monotonic() - began)
    assert await pruning == Pruned(answers=3000, calls=3000)
    assert len(waits) > 3
    assert max(waits) < 1
    await book.close()


async def test_many_processes_remove_everything_once(address: str, database: Database) -> None:
    rows = [answer(NOON - 40 * DAY_S) for _ in range(500)]
    await write(database, (tables.answers, rows), (tables.calls, [call(each) for each in rows]))
    others = [Database(address) for _ in range(3)]
    found = await asyncio.gather(*(prune(each, 30, NOON, batch=50) for each in others))
    # Who finds somebody else at it leaves it to them.
    assert sum(each.answers for each in found) == 500
    assert sum(each.calls for each in found) == 500
    for each in others:
        await each.close()


def test_the_command_counts_first_and_removes_then(run: Run, tmp_path: Path) -> None:
    ledger = ledger_file()

    async def seed() -> None:
        database = Database(str(ledger))
        rows = [answer(time.time() - 100 * DAY_S), answer(time.time())]
        await write(database, (tables.answers, rows), (tables.calls, [call(rows[0])]))
        await database.close()

    asyncio.run(seed())
    path = tmp_path / "settings.yaml"
    path.write_text(f"ledger:\n  database: {ledger}\n  retention_days: null\n")
    config = ("-c", str(path))
    assert "--older-than" in run("ledger", "prune", *config).err
    arguments = ("ledger", "prune", "--older-than", "90d", "--json", *config)
    found = {"answers": 1, "calls": 1, "corrections": 0, "counters": 0}
    assert json.loads(run(*arguments, "--dry-run").out) == {"dry_run": True, **found}
    assert json.loads(run(*arguments).out) == {"dry_run": False, **found}
    assert json.loads(run(*arguments).out)["answers"] == 0


def test_a_report_says_where_it_begins(run: Run, tmp_path: Path) -> None:
    ledger = ledger_file()
    path = tmp_path / "settings.yaml"
    path.write_text(f"ledger:\n  database: {ledger}\n  retention_days: 30\n")
    shown = run("cost", "report", "--since", "90d", "--json", "-c", str(path))
    begins = json.loads(shown.out)["start"]
    assert begins == pytest.approx(time.time() - 30 * DAY_S, abs=60)
    assert "retention_days" in shown.err
    assert "retention_days" not in run("cost", "report", "--since", "7d", "-c", str(path)).err
