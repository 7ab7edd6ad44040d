"""What traffic says of a stack that is too much for it."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from serve_app.ledger import tables
from serve_app.ledger.database import Database
from serve_app.ledger.report import Span
from serve_app.ledger.signals import signals
from tests.cli.conftest import Run, run
from tests.fixtures import ledger_file

__all__ = ["run"]  # the fixture

NOW = time.time()
SPAN = Span(NOW - 3600, NOW + 60)
FAST = {"decide": 5.0, "expert": 500.0}


@pytest.fixture
def ledger() -> Path:
    return ledger_file()


@pytest.fixture
async def database(ledger: Path) -> AsyncIterator[Database]:
    opened = Database(str(ledger))
    yield opened
    await opened.close()


def rows(count: int, route: str = "expert", **columns: Any) -> list[dict[str, Any]]:
    row = {
        "request_id": "r",
        "started_at": NOW,
        "day": "2026-01-01",
        "lease_until": NOW,
        "tenant": "acme",
        "api_key": "ann",
        "status": "ok",
        "asked_model": "trivium/auto",
        "route": route,
        "degraded": "",
        "stages_ms": FAST,
        "adapter": None,
        "citations": 0,
        "good": None,
        **columns,
    }
    return [{**row, "id": uuid.uuid4().hex} for _ in range(count)]


async def write(database: Database, *groups: Iterable[dict[str, Any]]) -> None:
    every = [row for group in groups for row in group]
    await database.write(lambda it: it.execute(insert(tables.answers), every))


async def names(database: Database, *adapters: str) -> set[str]:
    _, found = await signals(database, SPAN, adapters)
    return {each.name for each in found}


async def test_mixed_traffic_says_nothing(database: Database) -> None:
    quoted = {"decide": 5.0, "retrieve": 20.0, "quote": 10.0}
    await write(
        database,
        rows(80, adapter="reports@2"),
        rows(80, "knowledge", stages_ms=quoted, citations=1),
        rows(20, "frontier"),
    )
    assert await names(database, "reports") == set()


async def test_each_signal_has_its_evidence(database: Database) -> None:
    looked = {"decide": 90.0, "retrieve": 20.0, "quote": 10.0}
    await write(
        database,
        rows(200, "knowledge", stages_ms=looked),
        rows(40, "expert", asked_model="trivium/expert", good=True, stages_ms=None),
        rows(40, "frontier", asked_model="trivium/frontier", good=False, stages_ms=None),
    )
    count, found = await signals(database, SPAN, ["reports"])
    assert count == 280
    evidence = {each.name: each.evidence for each in found}
    assert evidence == {
        "one road takes nearly everything": "100% of 200 routed answers went to knowledge",
        "deciding takes longer than answering": (
            "median 90 ms to decide, 30 ms for all that follows"
        ),
        "what is retrieved changes no answer": (
            "100% of 200 answers that looked something up cite nothing"
        ),
        "an adapter that nobody hits": "reports wrote none of 280 answers",
        "the frontier is no better than the expert": (
            "0% (0%–9%) of 40 judged answers of the frontier were good, "
            "100% (91%–100%) of 40 of the expert (95 % intervals)"
        ),
    }
    assert all(each.remove for each in found)


async def test_too_few_answers_and_our_own_say_nothing(database: Database) -> None:
    await write(
        database,
        rows(99),
        rows(500, api_key="warm-up"),
        rows(500, status="failed"),
        rows(500, started_at=NOW - 7200),
    )
    assert await signals(database, SPAN, ["reports"]) == (99, [])


def test_the_command_says_so_too(ledger: Path, run: Run, tmp_path: Path) -> None:
    async def seed() -> None:
        opened = Database(str(ledger))
        await write(opened, rows(150))
        await opened.close()

    asyncio.run(seed())
    config = tmp_path / "settings.yaml"
    config.write_text(f"ledger:\n  database: {ledger}\n")
    told = json.loads(run("advise", "stack", "--json", "-c", str(config)).out)
    assert [each["name"] for each in told["signals"]] == ["one road takes nearly everything"]
    shown = run("advise", "stack", "-c", str(config)).out
    assert "100% of 150" in shown
    assert "trivium/expert" in shown
