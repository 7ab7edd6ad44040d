"""Ingest and search over one vector store and its embedding models."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from serve_app.domain import Chunk, Document, SearchQuery
from serve_app.errors import InvalidRequest, NotFound, TooManyCollections
from serve_app.retrieval import index, ranking
from serve_app.retrieval.filters import Where
from serve_app.retrieval.index import DocumentPage, IngestReport, Row
from serve_app.retrieval.indexes import Index
from serve_app.retrieval.lanes import Lanes
from serve_app.retrieval.nearness import Nearness
from serve_app.retrieval.ranking import Floats, Hit
from serve_app.retrieval.search_text import normalised, searchable
from serve_app.retrieval.store import MilvusStore
from serve_app.retrieval.together import Together

DEPTH = 20  # hits of each ranking that fusion sees, at least
_SIZE_TTL_S = 10.0  # to count a large base's tokens for each question would cost too much


class Embedder(Protocol):
    """An embedding model; blocking, thread-safe.

    Attributes:
        window: Tokens of a text that it reads; none if there is no bound.
    """

    dimension: int
    window: int | None

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """Texts to unit vectors."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text."""
        ...


class Models(Protocol):
    """Embedding models by name, and the one for new collections."""

    default: str

    def model(self, name: str) -> Embedder: ...


class Reranker(Protocol):
    def __call__(self, query: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers the query; blocking."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """How hits become results.

    Attributes:
        weights: Of the dense and the sparse ranking in their fusion.
        half_life_s: Age at which the recency prior has lost half of its bonus.
        max_collections: That a tenant may make.
    """

    weights: tuple[float, float] = (1.0, 1.0)
    half_life_s: float = 3600.0
    max_collections: int = 100


class Retriever:
    """Documents in, evidence out.

    Attributes:
        chunk_tokens: Upper bound of a chunk in new collections.
        rules: May be exchanged at any time.
    """

    def __init__(
        self,
        store: MilvusStore,
        models: Models,
        chunk_tokens: int,
        rules: Rules,
        reranker: Reranker | None = None,
    ) -> None:
        self._store = store
        self._models = models
        self.chunk_tokens = chunk_tokens
        self.rules = rules
        self._reranker = reranker
        self._nearness = Nearness()
        self._queries: dict[str, Together] = {}  # by embedding model
        self._lanes = Lanes(shared=store.embedded)
        self._sizes: dict[tuple[str, str], tuple[float, int]] = {}
        self._making = asyncio.Lock()

    async def ingest(
        self, collection: str, tenant: str, documents: Sequence[Document]
    ) -> IngestReport:
        """Add documents, or replace those with the same id; embeds only what is new.

        All are checked before any is written.

        Raises:
            UnprocessableDocument: One is empty, or its id or title does not fit; names which.
            TooManyCollections: It would be a new collection, and the tenant has made too many.
        """
        with self._lanes.write():
            return await self._ingested(collection, tenant, documents)

    async def _ingested(
        self, collection: str, tenant: str, documents: Sequence[Document]
    ) -> IngestReport:
        target = await self._target(collection, tenant)
        embedder = await self._embedder(target)
        # The last one of an id wins, as it would in calls of their own.
        split = await asyncio.to_thread(_split, documents, tenant, target.chunk_tokens, embedder)
        rows = {row.id: row for each in split.values() for row in each}
        known = await self._store.known(target, tenant, documents=list(split))
        plan = index.plan({key: row.stamp for key, row in rows.items()}, known)
        new = [rows[key] for key in rows if key in plan.embed]
        vectors = await asyncio.to_thread(embedder, [row.embedded for row in new]) if new else []
        moved = await self._store.vectors(target, sorted(plan.restamp))
        await self._store.upsert(
            target,
            [
                *zip(new, vectors, strict=True),
                *((rows[key], vector) for key, vector in moved.items()),
            ],
        )
        await self._store.remove(target, sorted(plan.stale))
        return index.report(len(documents), rows, plan)

    async def search(self, collection: str, tenant: str, query: SearchQuery) -> list[Chunk]:
        """The best chunks for a query, best first.

        Raises:
            NotFound: There is no such collection.
            InvalidRequest: BM25 alone was asked of a server that cannot compute it.
        """
        query = replace(query, text=normalised(query.text))
        source = await self._store.index(collection)
        if query.mode == "sparse" and not source.sparse:
            raise InvalidRequest(
                "this Milvus server cannot compute BM25 (2.5 and later can); search dense",
                param="mode",
            )
        vector = await self._vector(source, query.text)
        async with self._lanes.search():
            hits = await self._found(source, tenant, query, vector)
            hits = await self._in_force(source, tenant, hits)
            if query.recent:
                hits = ranking.recent_first(hits, time.time(), self.rules.half_life_s)
            if self._reranker and query.rerank:
                hits = await self._reranked(query.text, hits)
        if query.diversity:
            hits = ranking.diverse(hits, query.k, query.diversity)
        return [hit.chunk for hit in hits[: query.k]]

    async def whole(self, collection: str, tenant: str, max_tokens: int) -> list[Chunk] | None:
        """All of a tenant's chunks, if together they have at most so many tokens.

        Raises:
            NotFound: There is no such collection.
        """
        source = await self._store.index(collection)
        key = (source.name, tenant)
        until, tokens = self._sizes.get(key, (0.0, 0))
        if time.monotonic() > until:
            tokens = sum(await self._store.tokens(source, tenant))
            self._sizes[key] = (time.monotonic() + _SIZE_TTL_S, tokens)
        if tokens > max_tokens:
            return None
        hits = await self._store.everything(source, tenant)
        return [hit.chunk for hit in await self._in_force(source, tenant, hits)]

    async def nearness(self, collection: str, query: str, texts: Sequence[str]) -> list[float]:
        """The cosine of each text with a query, by the collection's embedding model.

        Raises:
            NotFound: There is no such collection.
        """
        source = await self._store.index(collection)
        embedder = await self._embedder(source)
        return await asyncio.to_thread(self._nearness, source.model, embedder, query, texts)

    async def documents(
        self, collection: str, tenant: str, after: str = "", limit: int = 100
    ) -> DocumentPage:
        """The documents of a tenant by id, those behind `after`, at most so many."""
        index = await self._store.index(collection)
        return await self._store.documents(index, tenant, after, limit)

    async def document(self, collection: str, tenant: str, document_id: str) -> list[Chunk]:
        """All chunks of a document.

        Raises:
            NotFound: There is no such document.
        """
        source = await self._store.index(collection)
        chunks = await self._store.chunks(source, tenant, document_id)
        if not chunks:
            raise NotFound(f"there is no document {document_id!r} in {collection!r}")
        return chunks

    async def delete(self, collection: str, tenant: str, document_id: str) -> int:
        """Remove a document; returns how many chunks it had.

        Raises:
            NotFound: There is no such document.
        """
        source = await self._store.index(collection)
        known = await self._store.known(source, tenant, documents=[document_id])
        if not known:
            raise NotFound(f"there is no document {document_id!r} in {collection!r}")
        await self._store.remove(source, list(known))
        return len(known)

    async def _target(self, collection: str, tenant: str) -> Index:
        """The collection's index, made if there is none and the tenant may have one more."""
        with contextlib.suppress(NotFound):
            return await self._store.index(collection)
        default = self._models.default
        dimension = self._models.model(default).dimension
        async with self._making:  # one at a time: each counts those before it
            if await self._store.owned(tenant) >= self.rules.max_collections:
                with contextlib.suppress(NotFound):
                    return await self._store.index(collection)
                raise TooManyCollections(
                    f"there is no collection {collection!r}, and your tenant has made "
                    f"{self.rules.max_collections}, which is the limit "
                    "(retrieval.max_collections): use one of them",
                    param="collection",
                )
            return await self._store.ensure(
                collection, default, dimension, self.chunk_tokens, tenant
            )

    async def _found(
        self, source: Index, tenant: str, query: SearchQuery, vector: list[float]
    ) -> list[Hit]:
        """Hits of one ranking, or of both, fused."""
        where = Where(tenant, query.metadata, query.since, query.until)
        depth = max(query.k, DEPTH)

        async def near() -> list[Hit]:
            wanted = query.diversity > 0
            return await self._store.search(source, "dense", vector, where, depth, vectors=wanted)

        async def worded() -> list[Hit]:
            # Vectors of what only BM25 finds give its cosine.
            hits = await self._store.search(
                source, "sparse", searchable(query.text), where, depth, vectors=True
            )
            asked = np.asarray(vector, dtype=np.float32)
            return [_with_cosine(hit, asked) for hit in hits]

        if query.mode == "dense" or not source.sparse:
            return await near()
        if query.mode == "sparse":
            return await worded()
        return ranking.fuse(await asyncio.gather(near(), worded()), self.rules.weights)

    async def _in_force(self, source: Index, tenant: str, hits: list[Hit]) -> list[Hit]:
        """Without what a newer version of its series hides."""
        series = sorted({hit.series for hit in hits if hit.series})
        if not series:
            return hits
        newest = await self._store.newest(source, tenant, series, time.time())
        return ranking.current(hits, newest)

    async def _reranked(self, text: str, hits: Sequence[Hit]) -> list[Hit]:
        assert self._reranker is not None
        texts = [
            index.embedded_text(hit.chunk.title, hit.chunk.heading, hit.chunk.text) for hit in hits
        ]
        scores = await asyncio.to_thread(self._reranker, text, texts)
        ordered = sorted(zip(scores, hits, strict=True), key=lambda pair: -pair[0])
        return [replace(hit, chunk=replace(hit.chunk, score=score)) for score, hit in ordered]

    async def _vector(self, source: Index, query: str) -> list[float]:
        if source.model not in self._queries:
            self._queries[source.model] = Together(await self._embedder(source))
        return await self._queries[source.model](query)

    async def _embedder(self, of: Index) -> Embedder:
        # The first use loads the model.
        return await asyncio.to_thread(self._models.model, of.model)


def _split(
    documents: Sequence[Document], tenant: str, chunk_tokens: int, embedder: Embedder
) -> dict[str, list[Row]]:
    """The rows of each document, by its id."""
    return {
        each.id: index.rows(
            each,
            tenant,
            max_tokens=chunk_tokens,
            count=embedder.count,
            window=embedder.window,
            where=f"documents[{i}]",
        )
        for i, each in enumerate(documents)
    }


def _with_cosine(hit: Hit, vector: Floats) -> Hit:
    return replace(hit, chunk=replace(hit.chunk, relevance=float(hit.vector @ vector)))
