"""Rows of an index: written, read, searched. One code path for Milvus Lite and server."""

from __future__ import annotations

import heapq
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from serve_app.domain import Chunk
from serve_app.errors import InvalidRequest
from serve_app.retrieval import schema
from serve_app.retrieval.filters import Where, literal
from serve_app.retrieval.index import DocumentPage, Known, Row
from serve_app.retrieval.indexes import Index, Indexes
from serve_app.retrieval.milvus import Milvus, translated
from serve_app.retrieval.ranking import Hit
from serve_app.retrieval.schema import CHUNK, KNOWN, METRIC, ROW, Field, Vector
from serve_app.settings import RetrievalSettings

_PAGE = 1000  # rows in one write, keys in one read
_SCAN = 50_000  # rows in one page of a scan, about
_FLUSHED = 16  # rows that Milvus Lite may hold unflushed: it copies them for each search
_GRACE_S = 10.0  # twice what Milvus lets a bounded search lag (`common.gracefulTime`)


class MilvusStore(Indexes):
    """Indexes, and the rows in them.

    Every method raises `Unavailable` when Milvus does not answer within `timeout_s`.

    Args:
        ca: Certificates (PEM) that vouch for the server; those gRPC comes with if not given.

    Raises:
        SettingsError: As `Milvus`.
    """

    def __init__(self, uri: str, token: str, timeout_s: float, ca: Path | None = None) -> None:
        super().__init__(Milvus(uri, token, timeout_s, ca))
        self._unflushed: Counter[str] = Counter()
        self._written: dict[str, float] = {}

    @classmethod
    def of(cls, settings: RetrievalSettings) -> MilvusStore:
        """The store that the settings name."""
        return cls(
            settings.milvus_uri,
            settings.milvus_token.get_secret_value(),
            settings.timeout_s,
            settings.milvus_ca,
        )

    @property
    def embedded(self) -> bool:
        """Whether it is Milvus Lite, which computes in this process."""
        return self._milvus.embedded

    def be_patient(self, timeout_s: float) -> None:
        """Wait so long for each answer of Milvus from now on."""
        self._milvus.timeout_s = timeout_s

    async def upsert(self, index: Index, rows: Sequence[tuple[Row, Vector]]) -> None:
        """Write rows with their embeddings.

        Raises:
            InvalidRequest: A vector has not the index's dimension.
        """
        for row, vector in rows:
            if len(vector) != index.dimension:
                raise InvalidRequest(
                    f"the embedding of {row.document_id!r} has {len(vector)} numbers, but "
                    f"{index.name} holds vectors of {index.dimension}; embed with {index.model!r}, "
                    "or reindex the collection with the new model"
                )
        now = int(time.time() * 1000)
        self._written[index.name] = time.monotonic()
        with translated():
            for start in range(0, len(rows), _PAGE):
                await self._client.upsert(
                    index.name,
                    [schema.record(*pair, now) for pair in rows[start : start + _PAGE]],
                    timeout=self._timeout,
                )
        await self._settle(index, len(rows))

    async def remove(self, index: Index, keys: Sequence[str]) -> None:
        self._written[index.name] = time.monotonic()
        with translated():
            for start in range(0, len(keys), _PAGE):
                await self._client.delete(
                    index.name,
                    ids=list(keys[start : start + _PAGE]),
                    timeout=self._timeout,
                )

    async def known(
        self,
        index: Index,
        tenant: str | None = None,
        documents: Sequence[str] | None = None,
        source: str | None = None,
    ) -> dict[str, Known]:
        """What the index knows of its rows: all, or those of some documents and of a source."""
        terms = [f"tenant == {literal(tenant)}"] if tenant is not None else []
        either = []
        if documents is not None:
            either += [f"document_id == {literal(name)}" for name in documents]
        if source is not None:
            either.append(f"source == {literal(source)}")
        if either:
            terms.append(f"({' or '.join(either)})")
        found = await self._all(index, " and ".join(terms), KNOWN)
        return {row["id"]: schema.known(row) for row in found}

    async def vectors(self, index: Index, keys: Sequence[str]) -> dict[str, list[float]]:
        """The stored embeddings of rows."""
        found: dict[str, list[float]] = {}
        for start in range(0, len(keys), _PAGE):
            part = list(keys[start : start + _PAGE])
            rows = await self._query(index, f"id in {json.dumps(part)}", ["id", "dense"])
            found |= {row["id"]: [float(x) for x in row["dense"]] for row in rows}
        return found

    async def rows(self, index: Index) -> list[list[Row]]:
        """Every document of every tenant, as its rows in order."""
        documents: dict[tuple[str, str], list[Row]] = {}
        for each in await self._all(index, "", ROW):
            row = schema.row(each)
            documents.setdefault((row.tenant, row.document_id), []).append(row)
        return [sorted(rows, key=lambda row: row.ordinal) for rows in documents.values()]

    async def chunks(self, index: Index, tenant: str, document_id: str) -> list[Chunk]:
        """All chunks of a document in their order; empty when there is none."""
        where = f"tenant == {literal(tenant)} and document_id == {literal(document_id)}"
        rows = await self._all(index, where, CHUNK)
        return [schema.chunk(row) for row in sorted(rows, key=schema.place)]

    async def everything(self, index: Index, tenant: str) -> list[Hit]:
        """All chunks of a tenant, by document and place: the same order each time."""
        rows = await self._all(index, f"tenant == {literal(tenant)}", CHUNK)
        return [schema.unsearched(row) for row in sorted(rows, key=schema.place)]

    async def tokens(self, index: Index, tenant: str) -> list[int]:
        """Of each chunk of a tenant."""
        rows = await self._all(index, f"tenant == {literal(tenant)}", ["tokens"])
        return [int(row["tokens"]) for row in rows]

    async def documents(self, index: Index, tenant: str, after: str, limit: int) -> DocumentPage:
        """A page of a tenant's documents, ordered by id: those behind `after`."""
        where = f"tenant == {literal(tenant)} and ordinal == 0"
        if after:
            where += f" and document_id > {literal(after)}"
        fields = ["document_id", "title", "as_of"]
        # Milvus does not sort: of each part no more is kept than the page can need.
        least: list[dict[str, Any]] = []
        async for rows in self._parts(index, where, fields):
            least = heapq.nsmallest(limit + 1, [*least, *rows], key=_document_id)
        listed = [
            {"id": row["document_id"], "title": row["title"], "as_of": row["as_of"] or None}
            for row in least[:limit]
        ]
        return DocumentPage(listed, has_more=len(least) > limit)

    async def newest(
        self, index: Index, tenant: str, series: Sequence[str], now: float
    ) -> dict[str, str]:
        """The document in force of each series: the latest whose time has come."""
        # One comparison each: Milvus Lite reads escapes in a list otherwise than alone.
        either = " or ".join(f"series == {literal(name)}" for name in series)
        rows = await self._query(
            index,
            f"tenant == {literal(tenant)} and ({either}) and ordinal == 0 and time <= {int(now)}",
            ["series", "document_id", "time"],
        )
        rows.sort(key=lambda row: (int(row["time"]), str(row["document_id"])))
        return {str(row["series"]): str(row["document_id"]) for row in rows}

    async def search(
        self,
        index: Index,
        field: Field,
        query: str | Vector,
        where: Where,
        limit: int,
        *,
        vectors: bool = False,
    ) -> list[Hit]:
        """The nearest rows by one field, best first; `vectors` asks for theirs too.

        What this store wrote is found at once, what others wrote a moment later.
        """
        wanted = [*CHUNK, "dense"] if vectors else CHUNK

        async def search() -> Any:
            return await self._client.search(
                index.name,
                data=[query],
                anns_field=field,
                search_params=METRIC[field],
                filter=where.expression(),
                limit=limit,
                output_fields=wanted,
                consistency_level=self._consistency(index),
                timeout=self._timeout,
            )

        (found,) = await self._milvus.read(index.name, search)
        return [schema.hit(hit, field) for hit in found]

    async def close(self) -> None:
        await self._milvus.close()

    def _consistency(self, index: Index) -> str:
        """How much a search waits for: what this store wrote lately, else all but the last seconds.

        Session alone would wait for nothing where this store has written nothing: a server that
        has just restarted then finds nothing until it has read its log again.
        """
        lately = time.monotonic() - self._written.get(index.name, -_GRACE_S) < _GRACE_S
        return "Session" if lately else "Bounded"

    async def _settle(self, index: Index, written: int) -> None:
        """Milvus Lite copies what is not flushed for each search; a server sees to it itself."""
        if not self._milvus.embedded:
            return
        self._unflushed[index.name] += written
        if self._unflushed[index.name] < _FLUSHED:
            return
        self._unflushed[index.name] = 0
        with translated():
            await self._client.flush(index.name, timeout=self._timeout)
        await self._milvus.load(index.name)

    async def _query(self, index: Index, where: str, fields: list[str]) -> list[dict[str, Any]]:
        async def query() -> Any:
            return await self._client.query(
                index.name,
                filter=where,
                output_fields=fields,
                consistency_level="Strong",
                timeout=self._timeout,
            )

        return list(await self._milvus.read(index.name, query))

    async def _all(self, index: Index, where: str, fields: list[str]) -> list[dict[str, Any]]:
        """Every row, however many. Reads what was written before, by anybody."""
        return [row async for rows in self._parts(index, where, fields) for row in rows]

    async def _parts(
        self, index: Index, where: str, fields: list[str]
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """The same, in parts of about `_SCAN` rows of the index."""
        with translated():
            about = await self._client.get_collection_stats(index.name, timeout=self._timeout)
        # Keys are hashes, so their first digits divide the rows evenly.
        digits = max(0, math.ceil(math.log(max(1, int(about["row_count"])) / _SCAN, 16)))
        for prefix in itertools.product("0123456789abcdef", repeat=digits):
            terms = [f'id like "{"".join(prefix)}%"', where]
            yield await self._query(index, " and ".join(filter(None, terms)), fields)


def _document_id(row: dict[str, Any]) -> str:
    return str(row["document_id"])
