"""How soon a document that was written is found, while others search.

    trivium up --demo --detach
    python -m loadtest.freshness

Writes documents one after the other over HTTP and searches for each until it is found. The time
runs from the start of the write.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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


async def measure(
    url: str, queries: list[str], clients: int, writes: int
) -> tuple[list[float], float]:
    """Seconds from write to find, and searches a second meanwhile."""
    stop = asyncio.Event()
    searches = 0

    async def client(http: httpx.AsyncClient, number: int) -> None:
        nonlocal searches
        while not stop.is_set():
            await search(http, queries[(number + searches) % len(queries)])
            searches += 1

    taken = []
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        began = time.perf_counter()
        others = [asyncio.create_task(client(http, i)) for i in range(clients)]
        for _ in range(writes):
            name = f"fresh-{uuid.uuid4().hex[:8]}"
            document = {"id": name, "title": name, "text": f"The lost item {name} is a red sledge."}
            started = time.perf_counter()
            path = f"/v1/collections/{COLLECTION}/documents"
            (await http.put(path, json={"documents": [document]})).raise_for_status()
            while name not in await search(http, f"lost item {name}"):
                pass
            taken.append(time.perf_counter() - started)
            (await http.delete(f"{path}/{name}")).raise_for_status()
        stop.set()
        await asyncio.gather(*others)
        return taken, searches / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=8, help="searching meanwhile")
    parser.add_argument("--writes", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    queries = [row.turns.last for row in read_rows(QUERIES)]
    taken, rate = asyncio.run(measure(options.url, queries, options.clients, options.writes))
    p50, p95 = np.percentile(taken, [50, 95])
    if options.json:
        print(json.dumps({"p50_s": p50, "p95_s": p95, "searches_per_second": rate}))
        return
    print(
        f"written → found, {options.clients} clients searching {rate:.0f} times a second: "
        f"p50 {p50:.2f} s, p95 {p95:.2f} s"
    )


if __name__ == "__main__":
    main()
