"""How soon a document that was written is found, and stands in an answer, while others search.

    trivium up --demo --detach
    python -m loadtest.freshness

Writes documents one after the other over HTTP. For each it searches until it is found, and asks the
knowledge road until its figure stands in the answer. The times run from the start of the write.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
import uuid
from pathlib import Path

import httpx
import numpy as np

from serve_app.router.rows import read_rows

QUERIES = Path("tests/data/router_questions.jsonl")
COLLECTION = "default"


async def search(http: httpx.AsyncClient, query: str) -> list[str]:
    response = await http.post(
        f"/v1/collections/{COLLECTION}/search", json={"query": query, "k": 5}
    )
    response.raise_for_status()
    return [hit["document_id"] for hit in response.json()["data"]]


async def ask(http: httpx.AsyncClient, question: str) -> str:
    body = {"model": "trivium/knowledge", "messages": [{"role": "user", "content": question}]}
    response = await http.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"])


async def written(http: httpx.AsyncClient) -> tuple[float, float]:
    """Seconds from a document's write to its find, and to the answer that holds its figure."""
    name, shelf = f"fresh-{uuid.uuid4().hex[:8]}", str(random.randint(10_000, 99_999))
    text = f"The lost item {name} is a red sledge on shelf {shelf}."
    path = f"/v1/collections/{COLLECTION}/documents"
    started = time.perf_counter()
    document = {"id": name, "title": name, "text": text}
    (await http.put(path, json={"documents": [document]})).raise_for_status()

    async def found() -> float:
        while name not in await search(http, f"lost item {name}"):
            pass
        return time.perf_counter() - started

    async def answered() -> float:
        while shelf not in await ask(http, f"On which shelf is the lost item {name}?"):
            pass
        return time.perf_counter() - started

    times = await asyncio.gather(found(), answered())
    (await http.delete(f"{path}/{name}")).raise_for_status()
    return times


async def measure(
    url: str, queries: list[str], clients: int, writes: int, pause_s: float
) -> tuple[list[tuple[float, float]], float]:
    """What `written` takes, each time, and searches a second meanwhile."""
    stop = asyncio.Event()
    searches = 0

    async def client(http: httpx.AsyncClient, number: int) -> None:
        nonlocal searches
        while not stop.is_set():
            await search(http, queries[(number + searches) % len(queries)])
            searches += 1
            await asyncio.sleep(pause_s)

    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        began = time.perf_counter()
        others = [asyncio.create_task(client(http, i)) for i in range(clients)]
        taken = [await written(http) for _ in range(writes)]
        stop.set()
        await asyncio.gather(*others)
        return taken, searches / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=8, help="searching meanwhile")
    parser.add_argument(
        "--pause", type=float, default=0.0, help="seconds between a client's searches"
    )
    parser.add_argument("--writes", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    queries = [row.turns.last for row in read_rows(QUERIES)]
    taken, rate = asyncio.run(
        measure(options.url, queries, options.clients, options.writes, options.pause)
    )
    figures = {
        what: dict(zip(("p50_s", "p95_s"), np.percentile(times, [50, 95]), strict=True))
        for what, times in zip(("found", "answered"), zip(*taken, strict=True), strict=True)
    }
    if options.json:
        print(json.dumps({**figures, "searches_per_second": rate}))
        return
    print(f"{options.writes} writes, {options.clients} clients searching {rate:.0f} times a second")
    for what, times in figures.items():
        print(f"written → {what}: p50 {times['p50_s']:.2f} s, p95 {times['p95_s']:.2f} s")


if __name__ == "__main__":
    main()
