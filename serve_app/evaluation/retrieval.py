"""How well each way of searching finds the documents that answer a query, and how fast.

Documents are what is judged, chunks are what is found: a document ranks where its best chunk does.
Relevance is binary. Beside our own ways stands `bm25s`, a BM25 that others are measured by too.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from milvus_lite.server_manager import server_manager_instance

from serve_app.domain import Chunk, Document, SearchQuery
from serve_app.errors import NotFound
from serve_app.evaluation import metrics, reference
from serve_app.evaluation.judgements import Query
from serve_app.evaluation.reference import Way
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.preparing import Models
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import DEPTH, Reranker, Retriever, Rules
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import RetrievalSettings

_DEPTH = 100  # documents of a ranking that are looked at
_BATCH = 64
_TENANT = "evaluation"
_ANY_SIZE = 10**12  # tokens
_AS_ANSWERS = "hybrid, as answers"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    Attributes:
        ingest_s: Seconds to split, embed and write all documents.
        scores: Of each way: `ndcg@10`, `recall@5`, `recall@100`, `mrr@10` (means over the
            queries, 0 to 1), and `p50_ms`, `p95_ms` of one search, embedding included; `p` is
            how often chance alone would make its nDCG@10 differ so much from hybrid's.
        notes: What was left out, and why.
    """

    documents: int
    chunks: int
    queries: int
    model: str
    ingest_s: float
    scores: dict[str, dict[str, float]]
    notes: list[str]


def ndcg(ranking: Sequence[str], relevant: AbstractSet[str], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first `k` (Järvelin & Kekäläinen, 2002).

    Args:
        ranking: Ids of documents, best first, each once.
        relevant: At least one id.
    """
    gains = [1 / math.log2(rank + 1) for rank in range(1, k + 1)]
    found = (gain for gain, name in zip(gains, ranking, strict=False) if name in relevant)
    return sum(found) / sum(gains[: len(relevant)])


def recall(ranking: Sequence[str], relevant: AbstractSet[str], k: int) -> float:
    """Share of the relevant documents that are among the first `k`."""
    return sum(name in relevant for name in ranking[:k]) / len(relevant)


def reciprocal_rank(ranking: Sequence[str], relevant: AbstractSet[str], k: int = 10) -> float:
    """1 / rank of the first relevant document, 0 where none is among the first `k`."""
    ranks = (rank for rank, name in enumerate(ranking[:k], start=1) if name in relevant)
    return 1 / next(ranks, math.inf)


def by_document(chunks: Iterable[Chunk]) -> list[str]:
    """Ids of the documents of chunks, in order of their best chunk."""
    return list(dict.fromkeys(chunk.document_id for chunk in chunks))


async def evaluate(
    settings: RetrievalSettings,
    models: Models,
    documents: Sequence[Document],
    queries: Sequence[Query],
    reranker: Reranker | None = None,
    on_progress: Progress = lambda step, done, total: None,
) -> Report:
    """Measure every way of searching, one query at a time, on an index made for it.

    The index is a file of Milvus Lite, or stands under a name of its own on the server of the
    settings; it is gone afterwards.

    Args:
        on_progress: Called with the step's name, how much of it is done, and of how much.

    Raises:
        UnprocessableDocument: A document cannot be indexed; says why.
        Unavailable: Milvus does not answer.
    """
    weights = (settings.dense_weight, settings.sparse_weight)
    rules = Rules(weights, settings.half_life_s)
    async with _throw_away(settings) as (store, registry, collection):
        retriever = Retriever(store, registry, models, settings.chunk_tokens, rules, reranker)
        started = time.perf_counter()
        for at in range(0, len(documents), _BATCH):
            on_progress("ingest", at, len(documents))
            await retriever.ingest(collection, _TENANT, documents[at : at + _BATCH])
        on_progress("ingest", len(documents), len(documents))
        took = time.perf_counter() - started
        sparse = await store.computes_bm25()
        chunks = await retriever.whole(collection, _TENANT, _ANY_SIZE) or []
        notes = []
        if not sparse:
            notes.append("sparse: left out, this Milvus cannot compute BM25; hybrid is dense alone")
        ways = {
            name: _way(retriever, collection, query)
            for name, query in _searches(sparse, reranker is not None).items()
        }
        references = reference.ways(documents, chunks, _DEPTH)
        if not references:
            notes.append("bm25s: left out, the package is not installed (pip install bm25s)")
        measured = {
            name: await _measured(name, way, queries, on_progress)
            for name, way in {**ways, **references}.items()
        }
    hybrid = measured["hybrid"][1]
    scores = {
        name: {**each, "p": metrics.paired_p(gains, hybrid)}
        for name, (each, gains) in measured.items()
    }
    return Report(len(documents), len(chunks), len(queries), models.default, took, scores, notes)


def _searches(sparse: bool, rerank: bool) -> dict[str, SearchQuery]:
    """What each way asks for; the text is still to come."""
    searches = {"dense": SearchQuery("", _DEPTH, "dense", rerank=False)}
    if sparse:
        searches["sparse"] = SearchQuery("", _DEPTH, "sparse", rerank=False)
    searches["hybrid"] = SearchQuery("", _DEPTH, "hybrid", rerank=False)
    if DEPTH != _DEPTH:
        searches[_AS_ANSWERS] = SearchQuery("", DEPTH, "hybrid", rerank=False)
    if rerank:
        searches["hybrid + rerank"] = SearchQuery("", _DEPTH, "hybrid", rerank=True)
    return searches


def _way(retriever: Retriever, collection: str, wanted: SearchQuery) -> Way:
    async def search(text: str) -> tuple[list[str], float]:
        query = replace(wanted, text=text)
        started = time.perf_counter()
        chunks = await retriever.search(collection, _TENANT, query)
        took = (time.perf_counter() - started) * 1000
        ranking = by_document(chunks)
        if len(ranking) < _DEPTH <= len(chunks):
            # Several chunks of one document took the places of others, which follow untimed.
            deeper = replace(query, k=2 * _DEPTH, rerank=False)
            chunks = [*chunks, *await retriever.search(collection, _TENANT, deeper)]
            ranking = by_document(chunks)[:_DEPTH]
        return ranking, took

    return search


async def _measured(
    name: str, search: Way, queries: Sequence[Query], on_progress: Progress
) -> tuple[dict[str, float], metrics.Vector]:
    """Mean scores, and each query's nDCG@10."""
    on_progress(name, 0, len(queries))
    await search(queries[0].text)  # the first one of all loads what the others find in memory
    rankings, times = [], []
    for query in queries:
        ranking, took = await search(query.text)
        rankings.append(ranking)
        times.append(took)
        on_progress(name, len(times), len(queries))
    judged = [(ranking, q.relevant) for ranking, q in zip(rankings, queries, strict=True)]
    p50, p95 = np.percentile(times, [50, 95])
    gains = np.array([ndcg(*each) for each in judged])
    scores = {
        "ndcg@10": float(gains.mean()),
        "recall@5": float(np.mean([recall(*each, 5) for each in judged])),
        "recall@100": float(np.mean([recall(*each, _DEPTH) for each in judged])),
        "mrr@10": float(np.mean([reciprocal_rank(*each) for each in judged])),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
    }
    return scores, gains


@contextlib.asynccontextmanager
async def _throw_away(
    settings: RetrievalSettings,
) -> AsyncIterator[tuple[MilvusStore, Registry, str]]:
    """A store and the name of a collection; whatever is put into it is removed at the end."""
    collection = f"evaluation_{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory(prefix="trivium-evaluation-") as folder:
        uri = str(Path(folder) / "milvus.db") if settings.embedded else settings.milvus_uri
        store = MilvusStore.of(settings.model_copy(update={"milvus_uri": uri}))
        registry = Registry(str(Path(folder) / "registry.db"))
        try:
            yield store, registry, collection
        finally:
            if not settings.embedded:
                with contextlib.suppress(NotFound):
                    await Catalogue(store, registry).remove(collection)
            await store.close()
            await registry.close()
            if settings.embedded:
                # Else Milvus Lite writes it all again when the process ends.
                await asyncio.to_thread(server_manager_instance.release_server, uri)
