"""Ingest and search over one vector store and one embedding model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serve_app.domain import Chunk, Document
from serve_app.errors import NotFound, UnprocessableDocument
from serve_app.retrieval import chunking
from serve_app.retrieval.store import MilvusStore, Mode, Row

Embed = Callable[[Sequence[str]], list[list[float]]]

_MAX_ID = 200
_MAX_TITLE_BYTES = 1000
_MAX_AS_OF = 64
_MAX_HEADING = 2048
_MAX_TEXT = 16384


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one batch of documents became."""

    documents: int
    chunks: int


class Retriever:
    """Documents in, evidence out.

    Args:
        embed: Texts to unit vectors; blocking, called on a worker thread.
        chunk_tokens: Upper bound of a chunk.
    """

    def __init__(self, store: MilvusStore, embed: Embed, chunk_tokens: int) -> None:
        self._store = store
        self._embed = embed
        self._chunk_tokens = chunk_tokens

    async def ingest(
        self, collection: str, tenant: str, documents: Sequence[Document]
    ) -> IngestReport:
        """Add documents, or replace those with the same id. All are checked before any is written.

        Raises:
            UnprocessableDocument: One is empty, or its id or title does not fit; names which.
        """
        # The last one of an id wins, as it would in batches of their own.
        checked = {d.id: self._rows(d, f"documents[{i}]") for i, d in enumerate(documents)}
        rows = [row for pieces in checked.values() for row in pieces]
        vectors = await asyncio.to_thread(self._embed, [_embedded_text(row) for row in rows])
        await self._store.upsert(
            collection,
            tenant,
            [replace(row, embedding=vector) for row, vector in zip(rows, vectors, strict=True)],
        )
        return IngestReport(documents=len(documents), chunks=len(rows))

    async def search(
        self, collection: str, tenant: str, query: str, k: int, mode: Mode = "hybrid"
    ) -> list[Chunk]:
        """The `k` best chunks for a query, best first."""
        (vector,) = await asyncio.to_thread(self._embed, [query])
        return await self._store.search(collection, tenant, query, vector, k, mode)

    async def documents(self, collection: str, tenant: str) -> list[dict[str, Any]]:
        return await self._store.documents(collection, tenant)

    async def document(self, collection: str, tenant: str, document_id: str) -> list[Chunk]:
        """All chunks of a document.

        Raises:
            NotFound: There is no such document.
        """
        chunks = await self._store.chunks(collection, tenant, document_id)
        if not chunks:
            raise NotFound(f"there is no document {document_id!r} in {collection!r}")
        return chunks

    async def delete(self, collection: str, tenant: str, document_id: str) -> int:
        """Remove a document; returns how many chunks it had.

        Raises:
            NotFound: There is no such document.
        """
        removed = await self._store.delete(collection, tenant, document_id)
        if not removed:
            raise NotFound(f"there is no document {document_id!r} in {collection!r}")
        return removed

    def _rows(self, document: Document, where: str) -> list[Row]:
        if not document.id.strip() or len(document.id.encode()) > _MAX_ID:
            raise UnprocessableDocument(
                f"{where}.id must have 1 to {_MAX_ID} bytes", param=f"{where}.id"
            )
        if len(document.title.encode()) > _MAX_TITLE_BYTES:
            raise UnprocessableDocument(
                f"{where}.title is longer than {_MAX_TITLE_BYTES} bytes",
                param=f"{where}.title",
            )
        as_of = str(document.metadata.get("as_of", ""))
        if len(as_of.encode()) > _MAX_AS_OF:
            raise UnprocessableDocument(
                f"{where}.metadata.as_of must be an ISO 8601 time", param=f"{where}.metadata.as_of"
            )
        pieces = chunking.split(document.text, self._chunk_tokens)
        if not pieces:
            raise UnprocessableDocument(f"{where}.text holds no text", param=f"{where}.text")
        for piece in pieces:
            heading = " › ".join(piece.headings)
            if len(piece.text.encode()) > _MAX_TEXT or len(heading.encode()) > _MAX_HEADING:
                raise UnprocessableDocument(
                    f"{where}.text holds a word or a heading that is too long to be one",
                    param=f"{where}.text",
                )
        return [
            Row(
                document_id=document.id,
                ordinal=ordinal,
                title=document.title,
                heading=" › ".join(piece.headings),
                text=piece.text,
                as_of=as_of,
                metadata=dict(document.metadata),
                embedding=[],
            )
            for ordinal, piece in enumerate(pieces)
        ]


def _embedded_text(row: Row) -> str:
    """Title and headings say what a chunk is about; half of them do not say it themselves."""
    return f"{row.title}\n{row.heading}\n{row.text}"
