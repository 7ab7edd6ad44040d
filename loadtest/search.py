"""What the retriever's deployment adds to a search, beside the same call on bare pymilvus.

    python -m loadtest.search

Documents are ingested into a Milvus server of its own. Then both embed the query and search the
same index for the same fields, one call at a time, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from serve_app import models
from serve_app.cli import local
from serve_app.domain import RequestContext, SearchQuery
from serve_app.router.rows import read_rows
from serve_app.settings import Settings, load

QUERIES = Path("tests/data/router_questions.jsonl")
ROUNDS = 300

Search = Callable[[str], Awaitable[object]]


def bare(settings: Settings) -> Search:
    """sentence-transformers and pymilvus, as one would write it by hand."""
    from pymilvus import AsyncMilvusClient
    from sentence_transformers import SentenceTransformer

    retrieval = settings.retrieval
    model = SentenceTransformer(models.embedding_models()[retrieval.embedding_model], device="cpu")
    client = AsyncMilvusClient(uri=retrieval.milvus_uri)

    async def search(query: str) -> object:
        vectors = await asyncio.to_thread(
            model.encode, [query], normalize_embeddings=True, show_progress_bar=False
        )
        return await client.search(
            retrieval.collection,
            data=[vectors[0].tolist()],
            anns_field="dense",
            search_params={"metric_type": "IP"},
            filter='tenant == "default"',
            limit=20,
            output_fields=["id", "document_id", "title", "heading", "text", "as_of"],
        )

    return search


def deployed(settings: Settings) -> Search:
    """The retriever's deployment, called as the gateway calls it."""
    from ray import serve

    from serve_app.gateway.roads import RemoteKnowledge
    from serve_app.handles import Remote
    from serve_app.retrieval.deployment import RetrieverServer

    application = serve.deployment(RetrieverServer, name="Retriever").bind(
        settings.retrieval, models.embedding_models(), None
    )
    handle = serve.run(application, name="bench", route_prefix=None)
    knowledge = RemoteKnowledge(Remote(handle, "knowledge", 10.0))

    async def search(query: str) -> object:
        context = RequestContext("bench", time.time() + 10)
        return await knowledge.search(
            context, settings.retrieval.collection, SearchQuery(query, 20, "dense")
        )

    return search


async def measure(contestants: dict[str, Search]) -> dict[str, dict[str, float]]:
    queries = [row.turns.last for row in read_rows(QUERIES)]
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(ROUNDS + 20):
        for name, search in contestants.items():
            started = time.perf_counter()
            await search(queries[turn % len(queries)])
            taken[name].append((time.perf_counter() - started) * 1000)
    found = {}
    for name, times in taken.items():
        p50, p95 = np.percentile(times[20:], [50, 95])  # the first ones warm up
        found[name] = {"p50_ms": float(p50), "p95_ms": float(p95)}
    return found


def compare(folder: Path, count: int, console: Console) -> dict[str, dict[str, float]]:
    from ray import serve

    from loadtest import ingest, servers

    file, config = folder / "documents.jsonl", folder / "config.yaml"
    ingest.write(ingest.documents(count), file)
    with servers.milvus(folder / "milvus") as server:
        uri = f"http://127.0.0.1:{server.listen_port}"
        config.write_text(json.dumps({"retrieval": {"milvus_uri": uri}}), encoding="utf-8")
        with console.status("ingesting; some minutes"):
            ingest.ingest(file, config)
        settings = load(config).resolved(Path.cwd())
        with local.cluster(settings, purpose="bench"), console.status("searching"):
            contestants = {
                "bare pymilvus": bare(settings),
                "deployment": deployed(settings),
            }
            found = asyncio.run(measure(contestants))
            serve.shutdown()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=2000, help="of 10 chunks each")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    # The caller here is no replica: its handle needs a loop of its own.
    os.environ.update({**local.RAY_ENVIRONMENT, "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"})
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="trivium-bench-") as folder:
        found = compare(Path(folder), options.documents, console)
    if options.json:
        print(json.dumps(found))
        return
    table = Table("", "p50 ms", "p95 ms")
    for name, times in found.items():
        table.add_row(name, f"{times['p50_ms']:.1f}", f"{times['p95_ms']:.1f}")
    Console().print(table)
    ratio = found["deployment"]["p95_ms"] / found["bare pymilvus"]["p95_ms"]
    print(f"p95: {ratio:.2f} times the bare call's")


if __name__ == "__main__":
    main()
