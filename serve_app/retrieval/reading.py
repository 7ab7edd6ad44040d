"""A document as it is read back, whether or not Milvus shows it yet.

A server shows a row that was just written at its next time tick. The registry knows at once what is
in force, and keeps what was put: split again that gives the same chunks, and the hash of a copy
tells whether those are what the index holds. The index itself is read where the text is in a file,
or where it has been split otherwise: by another version, or for an index of other chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serve_app.domain import Chunk, Document
from serve_app.errors import NotFound, UnprocessableDocument
from serve_app.retrieval import preparing, schema
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.filters import Reader
from serve_app.retrieval.index import Original, StoredDocument, hash_of, row_ids
from serve_app.retrieval.preparing import Models
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Copy, Index, Kept, document_key
from serve_app.retrieval.store import MilvusStore


class Reading:
    """Reads documents and their chunks."""

    def __init__(
        self, store: MilvusStore, registry: Registry, catalogue: Catalogue, models: Models
    ) -> None:
        self._store = store
        self._registry = registry
        self._catalogue = catalogue
        self._models = models

    async def document(self, collection: str, reader: Reader, document_id: str) -> StoredDocument:
        """A document, with all of its chunks.

        Raises:
            NotFound: There is no such document that the reader may read.
        """
        key = document_key(reader.tenant, document_id)
        before: tuple[Index, Copy | None] | None = None
        while True:
            source = (await self._catalogue.collection(collection)).in_force
            assert source is not None
            kept = await self._registry.documents.stored(collection, source.name, key)
            if kept is None or kept.entry.state != "in":
                break
            if not reader.may_read(kept.entry.facts.allow):
                break
            copy = kept.copy
            chunks = await self._split_again(source, kept)
            if chunks is None:
                chunks = await self.chunks(source, reader, [copy] if copy else [])
            # While it is replaced or reindexed, rows may go: then it is another copy by now.
            is_as_before = (source, copy) == before
            if copy and chunks and (len(chunks) == copy.chunks or is_as_before):
                return _stored(kept, chunks)
            if is_as_before:
                break
            before = (source, copy)
        raise NotFound(f"there is no document {document_id!r} in {collection!r}")

    async def chunks(self, source: Index, reader: Reader, copies: Sequence[Copy]) -> list[Chunk]:
        """Chunks of documents as an index holds them, in order, of those that are for the reader;
        waits until Milvus shows them."""
        keys = [key for each in copies for key in row_ids(each.key, each.version, each.chunks)]
        return [hit.chunk for hit in await self._store.chunks(source, reader, keys)]

    async def _split_again(self, source: Index, kept: Kept) -> list[Chunk] | None:
        """Chunks of what was put, if those are what the index holds."""
        facts = kept.entry.facts
        if kept.original is None or not _is_current(kept):
            return None
        put = Original.of(kept.original)
        document = Document(facts.id, put.title, put.text, put.metadata, allow=facts.allow)

        def work() -> list[Chunk] | None:
            assert kept.copy is not None
            embedder = self._models.model(source.model)
            try:
                rows = preparing.rows(
                    embedder, source, document, facts.tenant, facts.source, "document"
                )
            except UnprocessableDocument:  # it was taken by a version that takes more
                return None
            return [*map(schema.chunk_of, rows)] if hash_of(rows) == kept.copy.hash else None

        return await asyncio.to_thread(work)


def _is_current(kept: Kept) -> bool:
    """Whether the index holds the version in force."""
    return kept.copy is not None and kept.copy.version == kept.entry.version


def _stored(kept: Kept, chunks: Sequence[Chunk]) -> StoredDocument:
    # What is said of another version may be for others alone.
    if not _is_current(kept):
        return StoredDocument(chunks)
    facts, original = kept.entry.facts, kept.original
    put = None if original is None else Original.of(original)
    return StoredDocument(chunks, put, facts.source, facts.url)
