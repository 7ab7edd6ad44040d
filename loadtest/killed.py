"""Every process of the stack is killed under load: does the ledger know what was bought?

    python -m loadtest.killed

Clients ask `trivium/frontier` without a pause, whole and streamed. Then gateway, router, frontier
and all of Ray get SIGKILL at once. What the provider saw and what clients were told is compared
with the ledger's rows, after a new start of the stack on the same state.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

from loadtest import servers
from loadtest.frontier import Proxy, trivium
from serve_app.ledger import tables
from serve_app.ledger.database import Database

_UPSTREAM = 8105
_STATE = Path(".trivium/killed")


async def clients(url: str, count: int, told: list[str], over: asyncio.Event) -> None:
    """Keep asking until it is over, or nobody answers; `told` are whole answers' request ids."""

    async def one(http: httpx.AsyncClient, *, stream: bool) -> None:
        body = {
            "model": "trivium/frontier",
            "messages": [{"role": "user", "content": "Why is the sum of two odd numbers even?"}],
            "max_completion_tokens": 16,
            "stream": stream,
        }
        while not over.is_set():
            with suppress(httpx.HTTPError):
                response = await http.post(f"{url}/v1/chat/completions", json=body)
                whole = "data: [DONE]" in response.text if stream else response.status_code == 200
                if whole:
                    told.append(response.headers["x-request-id"])

    async with httpx.AsyncClient(timeout=30) as http:
        await asyncio.gather(*(one(http, stream=number % 2 == 0) for number in range(count)))


async def load_and_kill(proxy: Proxy, count: int, seconds: float) -> list[str]:
    """The request ids of the answers that clients have whole."""
    told: list[str] = []
    over = asyncio.Event()
    asking = asyncio.create_task(clients(proxy.target.url, count, told, over))
    await asyncio.sleep(seconds)
    assert proxy.process is not None
    family = [proxy.process, *proxy.process.children(recursive=True)]
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    over.set()
    await asking
    psutil.wait_procs(family, 30)
    return told


async def compared(told: list[str], seen: list[str]) -> dict[str, Any]:
    """What the ledger knows of it."""
    database = Database(str(_STATE / "ledger.db"))
    try:
        calls = await database.read(lambda it: it.execute(select(tables.calls)).all())
        answers = await database.read(lambda it: it.execute(select(tables.answers)).all())
        held = await database.read(
            lambda it: it.scalar(select(func.sum(tables.counters.c.held_nanos)))
        )
    finally:
        await database.close()
    known = {row.id for row in calls}
    closed = {row.request_id for row in answers if row.status == "ok"}
    return {
        "provider_saw": len(seen),
        "of_these_in_the_ledger": sum(each in known for each in seen),
        "clients_were_told": len(told),
        "of_these_closed_in_the_ledger": sum(each in closed for each in told),
        "calls_that_were_cut": sum(row.status not in ("ok", "failed") for row in calls),
        "held_nanos_after_the_new_start": int(held or 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15.0, help="of load before the kill")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    shutil.rmtree(_STATE, ignore_errors=True)
    _STATE.mkdir(parents=True)
    (_STATE / "models").symlink_to(Path(".trivium/models").resolve())
    ids = _STATE / "seen.txt"
    url = f"http://127.0.0.1:{_UPSTREAM}"
    command = [sys.executable, "-m", "loadtest.upstream", str(_UPSTREAM), str(ids)]
    # A lease is as long as a request may take: a short one, so that the new start sees it over.
    state = {"TRIVIUM_STATE_DIR": str(_STATE), "TRIVIUM_GATEWAY__REQUEST_TIMEOUT_S": "20"}
    os.environ.update(state)
    console = Console(stderr=True)
    with ExitStack() as stack, console.status("loading the stack, and killing all of it"):
        stack.enter_context(servers.running(command, url, _STATE / "upstream.log", {}))
        with trivium(url, _STATE / "first.log") as proxy:
            told = asyncio.run(load_and_kill(proxy, chosen.clients, chosen.seconds))
        seen = ids.read_text(encoding="ascii").split()
        with trivium(url, _STATE / "second.log"):
            row = asyncio.run(compared(told, seen))
    if chosen.json:
        print(json.dumps(row))
        return
    table = Table("what", "count")
    for name, value in row.items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
