"""Ingest and search over one vector store and its embedding models."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np

from serve_app.domain import Chunk, Document, SearchQuery
from serve_app.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    TriviumError,
    UnprocessableDocument,
)
from serve_app.retrieval import admission, index, preparing, ranking
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.filters import Reader, Where
from serve_app.retrieval.index import DocumentPage, IngestReport, StoredDocument
from serve_app.retrieval.lanes import Lanes
from serve_app.retrieval.mending import Mended, Mender
from serve_app.retrieval.nearness import Nearness
from serve_app.retrieval.preparing import Embedder, Models, Preparation
from serve_app.retrieval.ranking import Floats, Hit
from serve_app.retrieval.reading import Reading
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Collection, Entry, Facts, Index
from serve_app.retrieval.standing import standing
from serve_app.retrieval.store import MilvusStore
from serve_app.retrieval.together import Together
from serve_app.retrieval.writing import Writer
from serve_app.search_text import normalised, searchable
from serve_app.settings.sections import Tenancy

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

DEPTH = 20  # hits of each ranking that fusion sees, at least
_DEEPER = (1, 8, 64)  # times that, while rows which stand no more take their places
_SIZE_TTL_S = 10.0  # to add up a base's tokens for each question would cost too much
_PAGE = 500  # documents read together
_LOOKS = 20  # at documents that others write, so many times; those see to them too
_LOOK_AGAIN_S = 0.05


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


def _placed(
    method: Callable[Concatenate[Retriever, str, str, P], Awaitable[T]],
) -> Callable[Concatenate[Retriever, str, str, P], Coroutine[Any, Any, T]]:
    """A method on a tenant's part of a collection; its errors know the collection alone."""

    @wraps(method)
    async def call(
        self: Retriever, collection: str, tenant: str, /, *args: P.args, **more: P.kwargs
    ) -> T:
        place = self.tenancy.place(collection, tenant)
        try:
            return await method(self, place, tenant, *args, **more)
        except TriviumError as error:
            error.reword(repr(place), repr(collection))
            raise

    return call


class Retriever:
    """Documents in, evidence out.

    Attributes:
        chunk_tokens: Upper bound of a chunk in new collections.
        rules: May be exchanged at any time.
        tenancy: Where documents of which tenants are.
    """

    def __init__(
        self,
        store: MilvusStore,
        registry: Registry,
        models: Models,
        chunk_tokens: int,
        rules: Rules,
        reranker: Reranker | None = None,
        tenancy: Tenancy = Tenancy(),  # noqa: B008  # frozen
    ) -> None:
        self.tenancy = tenancy
        self._store = store
        self._registry = registry
        self._catalogue = Catalogue(store, registry)
        self._writer = Writer(store, registry)
        self._mender = Mender(store, registry, partial(preparing.split, models))
        self._reading = Reading(store, registry, self._catalogue, models)
        self._models = models
        self.chunk_tokens = chunk_tokens
        self.rules = rules
        self._reranker = reranker
        self._nearness = Nearness()
        self._queries: dict[str, Together] = {}  # by embedding model
        self._lanes = Lanes(shared=store.embedded)
        self._sizes: dict[tuple[str, Reader], tuple[float, int]] = {}

    @_placed
    async def ingest(
        self,
        collection: str,
        tenant: str,
        documents: Sequence[Document],
        groups: tuple[str, ...] = (),
    ) -> IngestReport:
        """Add documents, or replace those with the same id; embeds only what is new.

        All are checked before any is written.

        Args:
            groups: Of who writes: what is for others alone is neither written nor replaced.

        Raises:
            PermissionDenied: One is for others, or has the id of one that is; names which.
            UnprocessableDocument: One is empty, or its id or title does not fit; names which.
            TooManyCollections: It would be a new collection, and the tenant has made too many.
        """
        with self._lanes.write():
            return await self._ingested(collection, Reader(tenant, groups), documents)

    async def _ingested(
        self, collection: str, writer: Reader, documents: Sequence[Document]
    ) -> IngestReport:
        for i, each in enumerate(documents):
            if not writer.may_read(each.allow):
                raise PermissionDenied(
                    f"documents[{i}].allow: this API key has none of these groups, so it may not "
                    "write documents for them",
                    param=f"documents[{i}].allow",
                )
        # The last one of an id wins, as it would in calls of their own.
        last = {each.id: (i, each) for i, each in enumerate(documents)}
        facts = [
            index.facts(each, writer.tenant, where=f"documents[{i}]") for i, each in last.values()
        ]
        try:
            return await self._put(collection, writer, list(last.values()), facts)
        except NotFound:  # it was removed just now
            return await self._put(collection, writer, list(last.values()), facts)

    async def _put(
        self,
        collection: str,
        writer: Reader,
        documents: Sequence[tuple[int, Document]],
        facts: Sequence[Facts],
    ) -> IngestReport:
        target = await self._target(collection, writer.tenant)
        assert target.in_force is not None
        await self._check_taken(collection, writer, documents, facts)
        preparation = Preparation(
            self._store,
            self._registry,
            self._models,
            target.in_force,
            documents,
            facts,
        )
        written = await self._writer.put(collection, facts, preparation)
        await self._mend(collection, written.to_mend)
        return IngestReport(
            documents=len(documents),
            chunks=written.chunks,
            embedded=preparation.embedded,
            removed=preparation.replaced,
            embedded_tokens=preparation.embedded_tokens,
            saved_tokens=written.tokens - preparation.embedded_tokens,
        )

    @_placed
    async def search(
        self, collection: str, tenant: str, query: SearchQuery, groups: tuple[str, ...] = ()
    ) -> list[Chunk]:
        """The best chunks for a query, best first, of those that the groups may read.

        Raises:
            NotFound: There is no such collection.
            InvalidRequest: BM25 alone was asked of a server that cannot compute it.
        """
        query = replace(query, text=normalised(query.text))
        source = await self._catalogue.index(collection)
        if query.mode == "sparse" and not source.sparse:
            raise InvalidRequest(
                "this Milvus server cannot compute BM25 (2.5 and later can); search dense",
                param="mode",
            )
        vector = await self._vector(source, query.text)
        async with self._lanes.search():
            reader = Reader(tenant, groups)
            hits = await self._standing(source, collection, reader, query, vector)
            if query.recent:
                hits = ranking.recent_first(hits, time.time(), self.rules.half_life_s)
            if self._reranker and query.rerank:
                hits = await self._reranked(query.text, hits)
        if query.diversity:
            hits = ranking.diverse(hits, query.k, query.diversity)
        return [hit.chunk for hit in hits[: query.k]]

    @_placed
    async def whole(
        self, collection: str, tenant: str, max_tokens: int, groups: tuple[str, ...] = ()
    ) -> list[Chunk] | None:
        """All chunks that the groups may read, if together they have at most so many tokens.

        Raises:
            NotFound: There is no such collection.
        """
        source = await self._catalogue.index(collection)
        reader = Reader(tenant, groups)
        key = (source.name, reader)
        until, tokens = self._sizes.get(key, (0.0, 0))
        if (now := time.monotonic()) > until:
            tokens = await self._registry.documents.tokens(source.name, tenant, max_tokens, groups)
            # Of readers who ask no more nothing is kept.
            known = {each: size for each, size in self._sizes.items() if size[0] > now}
            self._sizes = {**known, key: (now + _SIZE_TTL_S, tokens)}
        if tokens > max_tokens:
            return None
        chunks: list[Chunk] = []
        after, when = "", time.time()
        while page := await self._registry.documents.in_force(
            collection, source.name, tenant, when, after, _PAGE, groups
        ):
            chunks += await self._reading.chunks(source, reader, [copy for _, copy in page])
            after = page[-1][0]
        return chunks

    @_placed
    async def nearness(
        self, collection: str, tenant: str, query: str, texts: Sequence[str]
    ) -> list[float]:
        """The cosine of each text with a query, by the collection's embedding model.

        Raises:
            NotFound: There is no such collection.
        """
        source = await self._catalogue.index(collection)
        embedder = await self._embedder(source)
        return await asyncio.to_thread(self._nearness, source.model, embedder, query, texts)

    @_placed
    async def documents(
        self,
        collection: str,
        tenant: str,
        after: str = "",
        limit: int = 100,
        source: str | None = None,
        groups: tuple[str, ...] = (),
    ) -> DocumentPage:
        """The documents that the groups may read by id, those behind `after`, at most so many.

        Args:
            source: Those of that one alone.
        """
        await self._catalogue.index(collection)
        page = await self._registry.documents.page(
            collection, tenant, after, limit + 1, source=source, groups=groups
        )
        listed = [
            {"id": e.facts.id, "title": e.facts.title, "as_of": e.facts.as_of or None}
            for e in page[:limit]
        ]
        return DocumentPage(listed, has_more=len(page) > limit)

    @_placed
    async def document(
        self, collection: str, tenant: str, document_id: str, groups: tuple[str, ...] = ()
    ) -> StoredDocument:
        """A document, with all of its chunks.

        Raises:
            NotFound: There is no such document that the groups may read.
        """
        return await self._reading.document(collection, Reader(tenant, groups), document_id)

    @_placed
    async def delete(
        self, collection: str, tenant: str, document_id: str, groups: tuple[str, ...] = ()
    ) -> int:
        """Remove a document, from every index; returns how many chunks it had.

        Raises:
            NotFound: There is no such document that the groups may read.
        """
        await self._catalogue.index(collection)
        there = await self._registry.documents.entry(collection, tenant, document_id)
        removed = None
        if there is None or Reader(tenant, groups).may_read(there.facts.allow):
            removed = await self._deleted(collection, [Facts(tenant, document_id)])
        if removed is None:
            raise NotFound(f"there is no document {document_id!r} in {collection!r}")
        return removed

    @_placed
    async def delete_collection(
        self, collection: str, tenant: str, groups: tuple[str, ...] = ()
    ) -> int:
        """Remove a tenant's documents that the groups may read; with the last ones of all tenants
        the collection goes too.

        Returns:
            How many documents.

        Raises:
            NotFound: There is no such collection, or it holds none of the tenant's and is not its.
        """
        found = await self._catalogue.collection(collection)
        documents = self._registry.documents
        count = await documents.count(collection, tenant)
        is_all = count == await documents.count(collection, tenant, groups)
        if (
            is_all
            and found.owner == tenant
            and await self._catalogue.remove(collection, only_of=tenant)
        ):
            return count
        removed = 0
        while page := await documents.page(collection, tenant, "", _PAGE, groups=groups):
            await self._deleted(collection, [each.facts for each in page])
            removed += len(page)
        if found.owner != tenant and not removed:
            raise NotFound(f"there is no collection {collection!r}", param="collection")
        return removed

    async def mend(self) -> Mended:
        """Finish what writers that died have left, in all collections."""
        done = Mended()
        while True:
            step = Mended()
            for collection, entries in (await self._registry.documents.abandoned()).items():
                step += await self._mended(collection, entries)
            done += step
            if not (step.documents or step.removed):
                return done

    async def _check_taken(
        self,
        collection: str,
        writer: Reader,
        documents: Sequence[tuple[int, Document]],
        facts: Sequence[Facts],
    ) -> None:
        """Raises `PermissionDenied` where one's id is that of a document for others alone, and
        `UnprocessableDocument` where it is that of one read elsewhere.
        """
        there = await self._registry.documents.entries(collection, [each.key for each in facts])
        for (i, document), each in zip(documents, facts, strict=True):
            before = there.get(each.key)
            if before is None or before.state != "in":
                continue
            if not writer.may_read(before.facts.allow):
                raise PermissionDenied(
                    f"documents[{i}].id: this API key may not write {document.id!r}",
                    param=f"documents[{i}].id",
                )
            if problem := admission.taken(document, before.facts.source, before.facts.url):
                place = f"documents[{i}].id"
                raise UnprocessableDocument(f"{place}: {problem}", param=place)

    async def _deleted(self, collection: str, wanted: Sequence[Facts]) -> int | None:
        """Chunks of documents that are removed; none where there are no such documents."""
        with self._lanes.write():
            written = await self._writer.delete(collection, wanted)
        await self._mend(collection, written.to_mend)
        return written.removed if written.changed else None

    async def _mend(self, collection: str, keys: Iterable[str]) -> None:
        """Bring rows of documents up to date that a write has put into another light.

        Others may do so at the same time, for another light; whoever is last has the right one.
        """
        wanted = sorted(keys)
        try:
            for _ in range(_LOOKS if wanted else 0):
                entries = await self._registry.documents.entries(collection, wanted)
                left = [each for each in entries.values() if each.claim is not None]
                if not left:
                    return
                done = await self._mended(collection, left)
                if not done.documents:
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TriviumError as error:
            log.warning("documents of %r stay to be mended: %s", collection, error)

    async def _mended(self, collection: str, entries: Sequence[Entry]) -> Mended:
        found = await self._registry.collections.get(collection)
        if found is None or found.in_force is None:
            return Mended()
        return await self._mender.mend(found, entries)

    async def _target(self, collection: str, tenant: str) -> Collection:
        """The collection, made if there is none and the tenant may have one more."""
        default = self._models.default
        embedder = await asyncio.to_thread(self._models.model, default)
        return await self._catalogue.ensure(
            collection,
            default,
            embedder.dimension,
            self.chunk_tokens,
            tenant,
            self.rules.max_collections,
        )

    async def _standing(
        self,
        source: Index,
        collection: str,
        reader: Reader,
        query: SearchQuery,
        vector: list[float],
    ) -> list[Hit]:
        """Hits that still stand. Where too few of them do, more are looked for."""
        hits: list[Hit] = []
        for depth in (max(query.k, DEPTH) * times for times in _DEEPER):
            found = await self._found(source, reader, query, vector, depth)
            hits = await standing(self._registry, collection, reader, found)
            if len(hits) >= query.k or len(found) < depth:
                break
        return hits

    async def _found(
        self, source: Index, reader: Reader, query: SearchQuery, vector: list[float], depth: int
    ) -> list[Hit]:
        """Hits of one ranking, or of both, fused; of each so many."""
        where = Where(reader, query.metadata, query.since, query.until)

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
            # Ranks, not BM25's own scores: those tell how often a word stands in what others read.
            return ranking.fuse([await worded()], [1.0])
        return ranking.fuse(await asyncio.gather(near(), worded()), self.rules.weights)

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
            self._queries[source.model] = Together((await self._embedder(source)).queries)
        return await self._queries[source.model](query)

    async def _embedder(self, of: Index) -> Embedder:
        # The first use loads the model.
        return await asyncio.to_thread(self._models.model, of.model)


def _with_cosine(hit: Hit, vector: Floats) -> Hit:
    return replace(hit, chunk=replace(hit.chunk, relevance=float(hit.vector @ vector)))
