"""A provider that is down for a minute under load: who is answered by whom, how fast, and after it?

    python -m loadtest.outage

Clients ask `trivium/frontier` all the time; the provider (`loadtest.upstream`, its own process) is
killed and started again. Every answer says which model gave it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from loadtest import servers
from loadtest.frontier import MODEL, trivium
from loadtest.streams import percentile

_UPSTREAM = 8104
_BEFORE_S, _AFTER_S = 15.0, 45.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: when it began, how long it took, and who answered."""

    at: float
    seconds: float
    by: str


async def clients(url: str, count: int, asked: list[Asked], over: asyncio.Event) -> None:
    """Keep asking until it is over."""

    async def one(http: httpx.AsyncClient) -> None:
        body = {
            "model": "trivium/frontier",
            "messages": [{"role": "user", "content": "Why is the sum of two odd numbers even?"}],
            "max_completion_tokens": 8,
        }
        while not over.is_set():
            began = time.monotonic()
            try:
                response = await http.post(f"{url}/v1/chat/completions", json=body)
                by = response.headers.get("x-trivium-model", f"HTTP {response.status_code}")
            except httpx.HTTPError as error:
                by = type(error).__name__
            asked.append(Asked(began, time.monotonic() - began, by))

    async with httpx.AsyncClient(timeout=150) as http:
        await asyncio.gather(*(one(http) for _ in range(count)))


async def measure(
    url: str, command: list[str], log: Path, count: int, down_s: float
) -> list[dict[str, Any]]:
    asked: list[Asked] = []
    over = asyncio.Event()
    asking = asyncio.create_task(clients(url, count, asked, over))
    upstream = f"http://127.0.0.1:{_UPSTREAM}"

    def start() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(servers.running(command, upstream, log, {}))
        return stack

    provider = await asyncio.to_thread(start)
    began = time.monotonic()
    await asyncio.sleep(_BEFORE_S)
    await asyncio.to_thread(provider.close)
    down = time.monotonic()
    await asyncio.sleep(down_s)
    provider = await asyncio.to_thread(start)
    up = time.monotonic()
    await asyncio.sleep(_AFTER_S)
    over.set()
    await asking
    provider.close()
    back = min((a.at + a.seconds for a in asked if a.at > up and a.by == MODEL), default=None)
    rows = []
    spans = {"before": (began, down), "down": (down, up), "after": (up, time.monotonic())}
    for name, (start_, end) in spans.items():
        mine = [each for each in asked if start_ <= each.at < end]
        if not mine:
            continue
        rows.append(
            {
                "phase": name,
                "requests": len(mine),
                "answered_by": dict(Counter(each.by for each in mine)),
                "p50_s": percentile([each.seconds for each in mine], 0.5),
                "p99_s": percentile([each.seconds for each in mine], 0.99),
                "longest_s": max(each.seconds for each in mine),
                "recovered_after_s": back - up if name == "after" and back else None,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="that the provider is down")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    logs = Path(".trivium/loadtest")
    command = [sys.executable, "-m", "loadtest.upstream", str(_UPSTREAM)]
    console = Console(stderr=True)
    with (
        console.status("a provider goes away and comes back"),
        trivium(f"http://127.0.0.1:{_UPSTREAM}", logs / "outage.log") as proxy,
    ):
        log = logs / "upstream.log"
        rows = asyncio.run(measure(proxy.target.url, command, log, chosen.clients, chosen.seconds))
    if chosen.json:
        print(json.dumps(rows))
        return
    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for row in rows:
        by = ", ".join(f"{count} {name}" for name, count in row["answered_by"].items())
        shown = {**row, "answered_by": by}
        table.add_row(
            *(f"{v:.2f}" if isinstance(v, float) else str(v or "–") for v in shown.values())
        )
    Console().print(table)


if __name__ == "__main__":
    main()
