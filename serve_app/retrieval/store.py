"""The vector database: chunks in, nearest chunks out. One code path for Milvus Lite and server.

A collection holds dense vectors (inner product of unit vectors, i.e. cosine) and, computed by
Milvus itself, BM25 weights of the text; hybrid search fuses both rankings by reciprocal rank
(Cormack, Clarke & Büttcher, SIGIR 2009, k = 60).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pymilvus import (
    AnnSearchRequest,
    AsyncMilvusClient,
    DataType,
    Function,
    FunctionType,
    MilvusClient,
    MilvusException,
    RRFRanker,
)

from serve_app.domain import Chunk
from serve_app.errors import NotFound, Unavailable

Mode = Literal["dense", "sparse", "hybrid"]

_RRF_K = 60
_NOT_LOADED = 101  # Milvus's error code
_OUTPUT = ["document_id", "ordinal", "title", "heading", "text", "as_of"]
_DENSE = {"metric_type": "IP"}
_SPARSE = {"metric_type": "BM25"}


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk as it is stored; `ordinal` counts the chunks of a document from 0."""

    document_id: str
    ordinal: int
    title: str
    heading: str
    text: str
    as_of: str
    metadata: dict[str, Any]
    embedding: list[float]

    def record(self, tenant: str) -> dict[str, Any]:
        # The tenant is part of the key: two tenants may use the same document ids. Its length
        # keeps "a/b" with document "c" apart from "a" with document "b/c".
        return {
            "id": f"{len(tenant)}:{tenant}/{self.document_id}#{self.ordinal}",
            "tenant": tenant,
            "document_id": self.document_id,
            "ordinal": self.ordinal,
            "title": self.title,
            "heading": self.heading,
            "text": self.text,
            "as_of": self.as_of,
            "metadata": self.metadata,
            "dense": self.embedding,
        }


class MilvusStore:
    """Chunks of all collections.

    Every method raises `Unavailable` when Milvus does not answer within `timeout_s`.
    """

    def __init__(self, uri: str, token: str, dimension: int, timeout_s: float) -> None:
        self._client = AsyncMilvusClient(uri=uri, token=token)
        self._connection = {"uri": uri, "token": token}
        self._dimension = dimension
        self._timeout = timeout_s
        self._known: set[str] = set()

    async def ensure(self, collection: str) -> None:
        """Create the collection unless it exists."""
        if collection in self._known:
            return
        try:
            if not await self._client.has_collection(collection, timeout=self._timeout):
                await asyncio.to_thread(self._create, collection)
            await self._client.load_collection(collection, timeout=self._timeout)
        except MilvusException as error:
            raise _unavailable(error) from error
        self._known.add(collection)

    async def upsert(self, collection: str, tenant: str, rows: Sequence[Row]) -> None:
        """Write whole documents: all chunks of each. Chunks that a document lost are removed."""
        await self.ensure(collection)
        lengths: dict[str, int] = {}
        for row in rows:
            lengths[row.document_id] = max(lengths.get(row.document_id, 0), row.ordinal + 1)
        stale = " or ".join(
            f"(document_id == {_literal(document)} and ordinal >= {length})"
            for document, length in lengths.items()
        )
        try:
            await self._client.upsert(
                collection, [row.record(tenant) for row in rows], timeout=self._timeout
            )
            await self._client.delete(
                collection,
                filter=f"tenant == {_literal(tenant)} and ({stale})",
                timeout=self._timeout,
            )
        except MilvusException as error:
            raise _unavailable(error) from error

    async def delete(self, collection: str, tenant: str, document_id: str) -> int:
        """Remove a document; returns how many chunks it had."""
        chunks = await self.chunks(collection, tenant, document_id)
        if chunks:
            try:
                await self._client.delete(
                    collection,
                    filter=_of_document(tenant, document_id),
                    timeout=self._timeout,
                )
            except MilvusException as error:
                raise _unavailable(error) from error
        return len(chunks)

    async def chunks(self, collection: str, tenant: str, document_id: str) -> list[Chunk]:
        """All chunks of a document in their order; empty when there is none."""
        rows = await self._query(collection, _of_document(tenant, document_id), _OUTPUT)
        rows.sort(key=lambda row: int(row["ordinal"]))
        return [_chunk(row) for row in rows]

    async def documents(self, collection: str, tenant: str) -> list[dict[str, Any]]:
        """Id, title and `as_of` of every document of a tenant, ordered by id."""
        rows = await self._query(
            collection,
            f"tenant == {_literal(tenant)} and ordinal == 0",
            ["document_id", "title", "as_of"],
        )
        return sorted(
            (
                {
                    "id": row["document_id"],
                    "title": row["title"],
                    "as_of": row["as_of"] or None,
                }
                for row in rows
            ),
            key=lambda row: str(row["id"]),
        )

    async def search(
        self,
        collection: str,
        tenant: str,
        text: str,
        embedding: list[float],
        k: int,
        mode: Mode,
    ) -> list[Chunk]:
        """The `k` nearest chunks, best first."""
        where = f"tenant == {_literal(tenant)}"
        shared: dict[str, Any] = {
            "output_fields": [*_OUTPUT, "dense"],
            "timeout": self._timeout,
            "limit": k,
        }

        async def search() -> Any:
            if mode == "hybrid":
                depth = max(k, 20)
                return await self._client.hybrid_search(
                    collection,
                    [
                        AnnSearchRequest([embedding], "dense", _DENSE, limit=depth, expr=where),
                        AnnSearchRequest([text], "sparse", _SPARSE, limit=depth, expr=where),
                    ],
                    RRFRanker(_RRF_K),
                    **shared,
                )
            return await self._client.search(
                collection,
                data=[embedding] if mode == "dense" else [text],
                anns_field=mode,
                search_params=_DENSE if mode == "dense" else _SPARSE,
                filter=where,
                **shared,
            )

        found = await self._loaded(collection, search)
        return [
            replace(
                _chunk(hit["entity"]),
                score=float(hit["distance"]),
                relevance=_dot(embedding, hit["entity"]["dense"]),
            )
            for hit in found[0]
        ]

    async def close(self) -> None:
        await self._client.close()

    async def _query(self, collection: str, where: str, fields: list[str]) -> list[dict[str, Any]]:
        async def query() -> Any:
            return await self._client.query(
                collection, filter=where, output_fields=fields, timeout=self._timeout
            )

        return list(await self._loaded(collection, query))

    async def _loaded(self, collection: str, read: Callable[[], Awaitable[Any]]) -> Any:
        """Read from a collection; load it again where Milvus has restarted and forgotten it."""
        await self._must_exist(collection)
        try:
            return await read()
        except MilvusException as error:
            if error.code != _NOT_LOADED:
                raise _unavailable(error) from error
        self._known.discard(collection)
        await self.ensure(collection)
        try:
            return await read()
        except MilvusException as error:
            raise _unavailable(error) from error

    async def _must_exist(self, collection: str) -> None:
        if collection in self._known:
            return
        try:
            exists = await self._client.has_collection(collection, timeout=self._timeout)
        except MilvusException as error:
            raise _unavailable(error) from error
        if not exists:
            raise NotFound(
                f"there is no collection {collection!r}; PUT a document into it to create it",
                param="collection",
            )
        await self.ensure(collection)

    def _create(self, collection: str) -> None:
        """Blocking: the async client builds indexes by a call that Milvus Lite does not know."""
        schema = MilvusClient.create_schema(enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=512)
        schema.add_field("tenant", DataType.VARCHAR, max_length=128)
        schema.add_field("document_id", DataType.VARCHAR, max_length=256)
        schema.add_field("ordinal", DataType.INT64)
        schema.add_field("title", DataType.VARCHAR, max_length=1024)
        schema.add_field("heading", DataType.VARCHAR, max_length=2048)
        schema.add_field("text", DataType.VARCHAR, max_length=16384, enable_analyzer=True)
        schema.add_field("as_of", DataType.VARCHAR, max_length=64)
        schema.add_field("metadata", DataType.JSON)
        schema.add_field("dense", DataType.FLOAT_VECTOR, dim=self._dimension)
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function(
                name="bm25",
                function_type=FunctionType.BM25,
                input_field_names=["text"],
                output_field_names=["sparse"],
            )
        )
        index = MilvusClient.prepare_index_params()
        index.add_index("dense", index_type="AUTOINDEX", **_DENSE)
        index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", **_SPARSE)
        client = MilvusClient(**self._connection)
        try:
            client.create_collection(
                collection, schema=schema, index_params=index, timeout=self._timeout
            )
        finally:
            client.close()


def _chunk(row: dict[str, Any]) -> Chunk:
    return Chunk(
        id=f"{row['document_id']}#{row['ordinal']}",
        document_id=str(row["document_id"]),
        title=str(row["title"]),
        heading=str(row["heading"]),
        text=str(row["text"]),
        as_of=str(row["as_of"]) or None,
    )


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(left, right, strict=True))


def _of_document(tenant: str, document_id: str) -> str:
    return f"tenant == {_literal(tenant)} and document_id == {_literal(document_id)}"


def _literal(text: str) -> str:
    """A string literal of Milvus's filter language; what a caller wrote cannot leave it."""
    literal = json.dumps(text, ensure_ascii=False)
    # JSON's escapes but for `\\u00XX`, which Milvus does not know: it takes those as they are.
    return re.sub(r"(?<!\\)((?:\\\\)*)\\u00([0-9a-f]{2})", _control, literal)


def _control(escape: re.Match[str]) -> str:
    return escape[1] + chr(int(escape[2], 16))


def _unavailable(error: MilvusException) -> Unavailable:
    unavailable = Unavailable("the knowledge base is not reachable; try again shortly")
    unavailable.add_note(f"Milvus: {error.code} {error.message}")
    return unavailable
