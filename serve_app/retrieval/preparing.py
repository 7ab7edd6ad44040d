"""Documents to rows with vectors; what has been embedded before is not embedded again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from serve_app.domain import Document
from serve_app.retrieval import index as rows_of
from serve_app.retrieval.index import Row, row_ids
from serve_app.retrieval.port import Port
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Facts, Index
from serve_app.retrieval.writing import Embedded


class Embedder(Protocol):
    """An embedding model; blocking, thread-safe."""

    @property
    def dimension(self) -> int:
        """Length of its vectors."""
        ...

    @property
    def window(self) -> int | None:
        """Tokens of a text that it reads; none if there is no bound."""
        ...

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """Passages to unit vectors."""
        ...

    def queries(self, texts: Sequence[str]) -> list[list[float]]:
        """Queries to unit vectors."""
        ...

    def beside(self, query: str, texts: Sequence[str]) -> list[list[float]]:
        """A query and passages to unit vectors, the query's first."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text."""
        ...


class Models(Protocol):
    """Embedding models by name, and the one for new collections."""

    default: str

    def model(self, name: str) -> Embedder:
        """Blocking: the first use loads it."""
        ...


def rows(
    embedder: Embedder, index: Index, document: Document, tenant: str, source: str, where: str
) -> list[Row]:
    """A document, split for an index with this embedding model; always the same for the same.

    Args:
        where: What an error calls the document.

    Raises:
        UnprocessableDocument: It is empty, or does not fit.
    """
    return rows_of.rows(
        document,
        tenant,
        max_tokens=index.chunk_tokens,
        count=embedder.count,
        window=embedder.window,
        source=source,
        where=where,
    )


async def split(
    models: Models, index: Index, documents: Sequence[tuple[str, str, Document]]
) -> list[Embedded]:
    """Documents of tenants and sources, split and embedded for an index (`mending.Split`)."""

    def work() -> list[Embedded]:
        embedder = models.model(index.model)
        found = [
            rows(embedder, index, document, tenant, source, f"document {document.id!r}")
            for tenant, source, document in documents
        ]
        vectors = _embedded(embedder, [row for each in found for row in each], {})
        return [[(row, vectors[row.hash]) for row in each] for each in found]

    return await asyncio.to_thread(work)


class Preparation:
    """Documents of one request, for whatever indexes they are to be written to.

    Attributes:
        embedded, embedded_tokens: Rows of the index in force that had to be embedded.
        replaced: Rows of it that the documents had before and have no more.

    Args:
        documents: Each with its place in the request, by which an error names it.
        in_force: What the attributes speak of.
    """

    def __init__(
        self,
        store: Port,
        registry: Registry,
        models: Models,
        in_force: Index,
        documents: Sequence[tuple[int, Document]],
        facts: Sequence[Facts],
    ) -> None:
        self._store = store
        self._registry = registry
        self._models = models
        self._in_force = in_force
        self._documents = documents
        self._facts = facts
        self.embedded = 0
        self.embedded_tokens = 0
        self.replaced = 0

    async def __call__(self, index: Index, places: Sequence[int]) -> list[Embedded]:
        """Some of the documents, split and embedded for an index.

        Raises:
            UnprocessableDocument: One is empty.
        """
        found = await asyncio.to_thread(self._split, index, places)
        known = await self._known(index, places)
        wanted = [row for each in found for row in each]
        vectors = await asyncio.to_thread(self._vectors, index, wanted, known)
        if index == self._in_force:
            new = [row for row in wanted if row.hash not in known]
            self.embedded = len(new)
            self.embedded_tokens = sum(row.tokens for row in new)
            self.replaced = len(known.keys() - {row.hash for row in wanted})
        return [[(row, vectors[row.hash]) for row in each] for each in found]

    def _split(self, index: Index, places: Sequence[int]) -> list[list[Row]]:
        embedder = self._models.model(index.model)
        return [
            rows(embedder, index, document, facts.tenant, facts.source, f"documents[{place}]")
            for (place, document), facts in ((self._documents[i], self._facts[i]) for i in places)
        ]

    async def _known(self, index: Index, places: Sequence[int]) -> dict[str, list[float]]:
        """Vectors of what the documents hold now, by the hash of what is embedded."""
        keys = [self._facts[i].key for i in places]
        copies = await self._registry.documents.copies(index.name, keys)
        there = [row for e in copies.values() for row in row_ids(e.key, e.version, e.chunks)]
        return await self._store.vectors(index, there) if there else {}

    def _vectors(
        self, index: Index, wanted: Sequence[Row], known: Mapping[str, Sequence[float]]
    ) -> Mapping[str, Sequence[float]]:
        return _embedded(self._models.model(index.model), wanted, known)


def _embedded(
    embedder: Embedder, wanted: Sequence[Row], known: Mapping[str, Sequence[float]]
) -> Mapping[str, Sequence[float]]:
    """Vectors of rows by their hashes; blocking."""
    new = {row.hash: row.embedded for row in wanted if row.hash not in known}
    made = embedder(list(new.values())) if new else []
    return {**known, **dict(zip(new, made, strict=True))}
