"""Hostile loads on a running stack of this machine: are ordinary questions still answered?

    python -m loadtest.hostile

Ordinary questions are asked in a quiet minute and then under each load: prompts with thousands of
addresses to mask for the frontier, junk API keys, and a flood of `/v1/route`. Fails where one is
not answered, or where their p95 is more than twice that of the quiet minute. The loads come from
processes of their own, which take no more than so many requests a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import itertools
import json
import multiprocessing
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.table import Table

from loadtest.streams import percentile
from serve_app.ledger.keys import PREFIX, checksum

_ADDRESSES = 4000
_SLOWER = 2.0  # at most so many times the quiet p95
_QUESTION = "Rewrite in a friendly tone: your parcel number {} is late."


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a load; without headers of its own it brings the caller's key."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str] | None = None


def masking() -> Request:
    """Thousands of addresses, all different, in one prompt for the frontier."""
    salt = secrets.token_hex(4)
    text = " ".join(f"a{number}@{salt}.example" for number in range(_ADDRESSES))
    messages = [{"role": "user", "content": f"Who of these is late? {text}"}]
    body = {"model": "trivium/frontier", "messages": messages, "max_completion_tokens": 1}
    return Request("/v1/chat/completions", body)


def junk_key() -> Request:
    """A key that looks right down to its checksum, and that nobody made."""
    body = PREFIX + secrets.token_urlsafe(32)
    key = {"authorization": f"Bearer {body}{checksum(body)}"}
    return Request("/v1/route", {"query": "x"}, key)


def decisions() -> Request:
    """A question of many words for the router alone, each time another."""
    return Request("/v1/route", {"query": f"{secrets.token_hex(4)} " + "why is it so? " * 200})


LOADS: dict[str, Callable[[], Request]] = {
    "masking": masking,
    "junk keys": junk_key,
    "/v1/route": decisions,
}


async def attack(url: str, key: str, load: str, callers: int, rate: float) -> None:
    """Send a load until this process is ended, at most `rate` requests a second."""
    mine = {"authorization": f"Bearer {key}"} if key else {}
    began, turn = time.monotonic(), itertools.count()

    async def one(http: httpx.AsyncClient) -> None:
        while True:
            await asyncio.sleep(max(0.0, began + next(turn) / rate - time.monotonic()))
            sent = LOADS[load]()
            headers = mine if sent.headers is None else sent.headers
            with contextlib.suppress(httpx.HTTPError):
                await http.post(sent.path, json=sent.body, headers=headers)

    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        await asyncio.gather(*(one(http) for _ in range(callers)))


def _attack(*arguments: Any) -> None:
    asyncio.run(attack(*arguments))


@contextlib.contextmanager
def under(url: str, key: str, load: str, callers: int, rate: float) -> Iterator[None]:
    """A load from a process of its own, for as long as the block lasts."""
    arguments = (url, key, load, callers, rate)
    process = multiprocessing.get_context("spawn").Process(target=_attack, args=arguments)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join(10)


async def ordinary(url: str, key: str, clients: int, seconds: float) -> dict[str, Any]:
    """Ask small questions for so long; what came of them."""
    took: list[float] = []
    ended: Counter[str] = Counter()
    until = time.monotonic() + seconds
    headers = {"authorization": f"Bearer {key}"} if key else {}

    async def one(http: httpx.AsyncClient) -> None:
        began = time.monotonic()
        while not took or began < until:
            text = _QUESTION.format(secrets.token_hex(3))
            messages = [{"role": "user", "content": text}]
            body = {"model": "trivium/auto", "messages": messages, "max_completion_tokens": 16}
            try:
                answer = await http.post("/v1/chat/completions", json=body)
                ended[str(answer.status_code)] += 1
            except httpx.HTTPError as error:
                ended[type(error).__name__] += 1
            took.append(time.monotonic() - began)
            began = time.monotonic()

    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
        await asyncio.gather(*(one(http) for _ in range(clients)))
    return {
        "asked": len(took),
        "failed": {name: count for name, count in ended.items() if name != "200"},
        "p50_s": percentile(took, 0.5),
        "p95_s": percentile(took, 0.95),
    }


def measure(chosen: argparse.Namespace, key: str) -> list[dict[str, Any]]:
    """A row for the quiet minute, and one for each load."""

    def asked() -> dict[str, Any]:
        return asyncio.run(ordinary(chosen.url, key, chosen.clients, chosen.seconds))

    asyncio.run(ordinary(chosen.url, key, chosen.clients, 3.0))
    quiet = {"load": "quiet", **asked(), "slower": 1.0}
    rows = [quiet]
    for load in LOADS:
        with under(chosen.url, key, load, chosen.callers, chosen.rate):
            row = {"load": load, **asked()}
        rows.append({**row, "slower": row["p95_s"] / quiet["p95_s"]})
    return rows


def bearable(rows: list[dict[str, Any]]) -> bool:
    """Whether all ordinary questions were answered, and none of the loads made them slow."""
    return all(not row["failed"] and row["slower"] <= _SLOWER for row in rows)


def _of_this_machine(url: str) -> str:
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return url
    raise argparse.ArgumentTypeError(f"{url} is not of this machine: only 127.0.0.1 is attacked")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", type=_of_this_machine, default="http://127.0.0.1:8000")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase")
    parser.add_argument("--clients", type=int, default=2, help="who ask ordinary questions")
    parser.add_argument("--callers", type=int, default=16, help="of a hostile load, at once")
    parser.add_argument("--rate", type=float, default=50.0, help="their requests a second, at most")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with Console(stderr=True).status("asking, in peace and under three loads"):
        rows = measure(chosen, os.environ.get("TRIVIUM_API_KEY", ""))
    if chosen.json:
        print(json.dumps(rows))
    else:
        table = Table("load", "asked", "not answered", "p50 s", "p95 s", "times quiet")
        for row in rows:
            failed = ", ".join(f"{count} {name}" for name, count in row["failed"].items())
            figures = (f"{row[name]:.2f}" for name in ("p50_s", "p95_s", "slower"))
            table.add_row(row["load"], str(row["asked"]), failed or "none", *figures)
        Console().print(table)
    sys.exit(0 if bearable(rows) else 1)


if __name__ == "__main__":
    main()
