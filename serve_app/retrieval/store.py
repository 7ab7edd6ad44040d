"""Milvus collections and the rows in them: made, written, read, searched.

One code path for Milvus Lite and server. An index holds dense vectors (inner product of unit
vectors, i.e. cosine) and, where the server can compute them (2.5 and later, and Lite), BM25 weights
of the text. Which index is whose, and which rows there should be, the registry says.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pymilvus import MilvusException

from serve_app.errors import InvalidRequest, Unavailable
from serve_app.retrieval import schema, vector_index
from serve_app.retrieval.filters import Reader, Where, literal
from serve_app.retrieval.index import Place, Stored
from serve_app.retrieval.latest import Latest
from serve_app.retrieval.milvus import NOT_FOUND, Milvus, translated
from serve_app.retrieval.ranking import Hit
from serve_app.retrieval.registry.entries import (
    FOR_EVER,
    Copy,
    Facts,
    Index,
    milvus_name,
)
from serve_app.retrieval.schema import (
    CHUNK,
    FACTS,
    FIRST_LAYOUT,
    METRIC,
    PLACE,
    STORED,
    Field,
    Scalars,
    Vector,
)
from serve_app.retrieval.vector_index import Choice
from serve_app.settings import RetrievalSettings
from serve_app.settings.sections import VectorIndex

log = logging.getLogger(__name__)

_PAGE = 1000  # rows in one write, keys in one read
_FLUSHED = 16  # rows that Milvus Lite may hold unflushed: it copies them for each search
_GRACE_S = 10.0  # twice what Milvus lets a bounded search lag (`common.gracefulTime`)
_LAYOUT = "2"  # of rows; an index of the first one has to be carried over (`adopting`)


class MilvusStore:
    """Indexes by their names, and the rows in them.

    Every method raises `Unavailable` when Milvus does not answer within `timeout_s`, and
    `KnowledgeRefused` where it will not have what it is asked.

    Args:
        ca: Certificates (PEM) that vouch for the server; those gRPC comes with if not given.
        vectors: How indexes that are made find vectors.

    Raises:
        SettingsError: As `Milvus`.
    """

    def __init__(
        self,
        uri: str,
        token: str,
        timeout_s: float,
        ca: Path | None = None,
        vectors: VectorIndex | None = None,
    ) -> None:
        self._milvus = Milvus(uri, token, timeout_s, ca)
        self._client = self._milvus.client
        self._vectors = vectors or VectorIndex()
        self._version = ""
        self._loaded: set[str] = set()
        self._unflushed: Counter[str] = Counter()
        self._written: dict[str, float] = {}
        self._latest = Latest()

    @classmethod
    def of(cls, settings: RetrievalSettings) -> MilvusStore:
        """The store that the settings name."""
        return cls(
            settings.milvus_uri,
            settings.milvus_token.get_secret_value(),
            settings.timeout_s,
            settings.milvus_ca,
            settings.vector_index,
        )

    @property
    def embedded(self) -> bool:
        """Whether it is Milvus Lite, which computes in this process."""
        return self._milvus.embedded

    def be_patient(self, timeout_s: float) -> None:
        """Wait so long for each answer of Milvus from now on."""
        self._milvus.timeout_s = timeout_s

    async def close(self) -> None:
        await self._milvus.close()

    async def address(self) -> str:
        """Where other processes of this machine reach it: a file of Milvus Lite has one owner."""
        return await self._milvus.address()

    # Indexes

    async def computes_bm25(self) -> bool:
        """Whether indexes that are made can be searched by words."""
        if not self._version:
            with translated():
                version = str(await self._client.get_server_version(timeout=self._timeout))
            if not schema.computes_bm25(version):
                log.warning(
                    "Milvus %s cannot compute BM25 (2.5 and later can): searches are dense only",
                    version,
                )
            self._version = version
        return schema.computes_bm25(self._version)

    async def choice(self, rows: int, dimension: int) -> Choice:
        """How an index of about so many rows is to find vectors."""
        await self.computes_bm25()
        return vector_index.choose(
            self._vectors,
            rows,
            dimension,
            embedded=self.embedded,
            quantized_graph=schema.at_least(self._version, (2, 5)),
        )

    async def make(self, index: Index) -> None:
        """Make an index that is registered; empty, and ready to be searched."""
        if not index.vectors:  # of before that was kept
            chosen = await self.choice(0, index.dimension)
            index = replace(index, vectors=chosen.type)
        await self.computes_bm25()
        with translated():
            await asyncio.to_thread(self._make, index)
        await self._load(index.name)

    async def drop(self, name: str) -> None:
        """Remove an index, if it is there."""
        self._loaded.discard(name)
        with translated():
            if await self._client.has_collection(name, timeout=self._timeout):
                await self._client.drop_collection(name, timeout=self._timeout)

    async def alias(self, collection: str, name: str) -> None:
        """Let the collection's name mean an index, for whoever looks into Milvus, and for the day
        on which the registry is lost."""
        with translated():
            alias = milvus_name(collection)
            about = await self._about(alias)
            if about is None:
                await self._client.create_alias(name, alias, timeout=self._timeout)
            elif about["collection_name"] != name:
                await self._client.alter_alias(name, alias, timeout=self._timeout)

    async def unalias(self, collection: str) -> None:
        """Let the collection's name mean nothing: Milvus drops nothing that has another name."""
        with translated():
            alias = milvus_name(collection)
            if await self._client.has_collection(alias, timeout=self._timeout):
                await self._client.drop_alias(alias, timeout=self._timeout)

    async def aliased(self, collection: str) -> str | None:
        """The index that the collection's name means, if any."""
        with translated():
            about = await self._about(milvus_name(collection))
        return str(about["collection_name"]) if about else None

    async def made(self, collection: str) -> list[tuple[Index, bool]]:
        """Every index of a collection that is there, oldest first, and whether rows have the
        layout that is written today."""
        with translated():
            names = await self._client.list_collections(timeout=self._timeout)
            own = [name for name in names if re.fullmatch(rf"{milvus_name(collection)}__\d+", name)]
            about = [await self._about(name) for name in own]
        found = [_described(each) for each in about if each]
        return sorted(found, key=lambda each: each[0].version)

    # Rows

    async def upsert(self, index: Index, rows: Sequence[Stored]) -> None:
        """Write rows.

        Raises:
            InvalidRequest: A vector has not the index's dimension.
        """
        for each in rows:
            if len(each.vector) != index.dimension:
                raise InvalidRequest(
                    f"the embedding of {each.row.document_id!r} has {len(each.vector)} numbers, "
                    f"but {index.name} holds vectors of {index.dimension}; embed with "
                    f"{index.model!r}, or reindex the collection with the new model"
                )
        self._written[index.name] = time.monotonic()
        with translated():
            for start in range(0, len(rows), _PAGE):
                await self._client.upsert(
                    index.name,
                    [schema.record(each) for each in rows[start : start + _PAGE]],
                    timeout=self._timeout,
                )
        self._latest.note(index.name, rows)
        await self._settle(index, len(rows))

    async def remove(self, name: str, keys: Sequence[str]) -> None:
        """Remove rows from an index; those that are not there are none too many."""
        self._written[name] = time.monotonic()
        with translated():
            for start in range(0, len(keys), _PAGE):
                await self._client.delete(
                    name, ids=list(keys[start : start + _PAGE]), timeout=self._timeout
                )

    async def vectors(self, index: Index, keys: Sequence[str]) -> dict[str, list[float]]:
        """The vectors of rows, by the hash of what is embedded."""
        latest = {key: found for key in keys if (found := self._latest.get(index.name, key))}
        others = [key for key in keys if key not in latest]
        read = await self._by_keys(index, others, ["hash", "dense"])
        return {row["hash"]: [float(x) for x in row["dense"]] for row in read} | dict(
            latest.values()
        )

    async def stored(self, index: Index, keys: Sequence[str]) -> list[Stored]:
        """Rows as they were written, in no order; those that are not there are left out."""
        return [schema.stored(row) for row in await self._by_keys(index, keys, STORED, all_=True)]

    async def chunks(self, index: Index, reader: Reader, keys: Sequence[str]) -> list[Hit]:
        """Chunks in the order of their keys asked for, of those that are for the reader."""
        mine = reader.expression()
        read = await self._by_keys(index, keys, CHUNK, all_=True, where=mine)
        found = {row["id"]: row for row in read}
        return [schema.unsearched(found[key]) for key in keys if key in found]

    async def places(self, name: str, documents: Sequence[tuple[str, str]]) -> list[Place]:
        """All rows of documents (tenant and id) in an index, of whichever version."""
        found: list[Place] = []
        for start in range(0, len(documents), _PAGE // 4):
            # One comparison each: Milvus Lite reads escapes in a list otherwise than alone.
            either = " or ".join(
                f"(tenant == {literal(tenant)} and document_id == {literal(document)})"
                for tenant, document in documents[start : start + _PAGE // 4]
            )
            rows = await self._query(name, either, PLACE, "Strong")
            found += [schema.place_of(row) for row in rows]
        return found

    async def between(self, name: str, first: str, end: str) -> list[Place]:
        """Rows whose keys are in a half-open interval; an empty end is none."""
        rows = await self._query(name, _interval(first, end), PLACE, "Strong")
        return [schema.place_of(row) for row in rows]

    async def documents_between(
        self, index: Index, first: str, end: str
    ) -> list[tuple[Facts, Copy]]:
        """Documents whose keys are in an interval, by what their rows say."""
        rows = await self._query(index.name, _interval(first, end), FACTS, "Strong")
        return schema.documents(rows)

    async def first_layout(self, index: Index, first: str, end: str) -> list[Stored]:
        """Rows of an index of the first layout, whose keys are in an interval."""
        rows = await self._query(index.name, _interval(first, end), FIRST_LAYOUT, "Strong")
        always = {"version": 0, "since": 0, "until": FOR_EVER}
        return [schema.stored({**row, **always}) for row in rows]

    async def rows(self, name: str) -> int:
        """About how many rows an index has."""
        with translated():
            about = await self._client.get_collection_stats(name, timeout=self._timeout)
        return int(about["row_count"])

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
        tuned = {}
        if field == "dense":
            tuned["params"] = dict(vector_index.searching(self._vectors, index.vectors, limit))

        async def search() -> Any:
            return await self._client.search(
                index.name,
                data=[query],
                anns_field=field,
                search_params={**METRIC[field], **tuned},
                filter=where.expression(time.time()),
                limit=limit,
                output_fields=wanted,
                consistency_level=self._consistency(index.name),
                timeout=self._timeout,
            )

        await self._load(index.name)
        (found,) = await self._milvus.read(index.name, search)
        return [schema.hit(hit, field) for hit in found]

    @property
    def _timeout(self) -> float:
        return self._milvus.timeout_s

    def _consistency(self, name: str) -> str:
        """How much a read waits for: what this store wrote lately, else all but the last seconds.

        Session alone would wait for nothing where this store has written nothing: a server that
        has just restarted then finds nothing until it has read its log again.
        """
        lately = time.monotonic() - self._written.get(name, -_GRACE_S) < _GRACE_S
        return "Session" if lately else "Bounded"

    async def _load(self, name: str) -> None:
        """Bring an index into the memory of Milvus, once."""
        if name not in self._loaded:
            await self._milvus.load(name)
            self._loaded.add(name)

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

    async def _by_keys(
        self,
        index: Index,
        keys: Sequence[str],
        fields: list[str],
        *,
        all_: bool = False,
        where: str = "",
    ) -> list[dict[str, Any]]:
        """Rows by their keys, which name a version: text and vector of one never change.

        If one is missing, this store's latest writes are waited for, or with `all_` everybody's.
        To wait for those always would cost a server some hundred milliseconds.
        """
        found: list[dict[str, Any]] = []
        for start in range(0, len(keys), _PAGE):
            part = list(keys[start : start + _PAGE])
            named = f"id in {json.dumps(part)}{where and f' and {where}'}"
            rows = await self._query(index.name, named, fields, "Eventually")
            if len(rows) < len(part):
                sure = "Strong" if all_ else self._consistency(index.name)
                rows = await self._query(index.name, named, fields, sure)
            found += rows
        return found

    async def _query(
        self, name: str, where: str, fields: list[str], consistency: str
    ) -> list[dict[str, Any]]:
        async def query() -> Any:
            return await self._client.query(
                name,
                filter=where,
                output_fields=fields,
                consistency_level=consistency,
                timeout=self._timeout,
            )

        await self._load(name)
        return list(await self._milvus.read(name, query))

    async def _about(self, name: str) -> dict[str, Any] | None:
        """What Milvus says of a collection or an alias, if it has it."""
        try:
            if await self._client.has_collection(name, timeout=self._timeout):
                about = await self._client.describe_collection(name, timeout=self._timeout)
                return dict(about)
        except MilvusException as error:
            if error.code != NOT_FOUND:
                raise
            # It was dropped between the two.
        return None

    def _make(self, index: Index) -> None:
        """Blocking: the async client builds indexes by a call that Milvus Lite does not know."""
        with self._milvus.blocking() as client:
            client.create_collection(
                index.name,
                schema=schema.fields(index.dimension, sparse=index.sparse),
                properties={
                    "trivium.model": index.model,
                    "trivium.chunk_tokens": str(index.chunk_tokens),
                    "trivium.owner": index.owner,
                    "trivium.layout": _LAYOUT,
                },
                # Who wrote reads it back at once; others a moment later.
                consistency_level="Session",
                timeout=self._timeout,
            )
            client.create_index(
                index.name,
                schema.search_indexes(
                    index.vectors,
                    vector_index.building(self._vectors, index.vectors),
                    Scalars.of(self._version),
                    sparse=index.sparse,
                ),
                timeout=self._timeout,
                sync=False,  # it is empty: to ask whether each is built takes half a second
            )


def _interval(first: str, end: str) -> str:
    return f'id >= "{first}"' + (f' and id < "{end}"' if end else "")


def _described(about: Mapping[str, Any]) -> tuple[Index, bool]:
    """An index as Milvus describes it, and whether its rows have the layout of today."""
    name = str(about["collection_name"])
    properties = about.get("properties") or {}
    if "trivium.model" not in properties:
        raise Unavailable(
            f"the collection {name!r} was not made by this version of Trivium; "
            "ingest into another one, or remove it"
        )
    names = {field["name"]: field for field in about["fields"]}
    index = Index(
        name,
        properties["trivium.model"],
        int(names["dense"]["params"]["dim"]),
        int(properties["trivium.chunk_tokens"]),
        "sparse" in names,
        properties.get("trivium.owner", ""),
    )
    return index, properties.get("trivium.layout") == _LAYOUT
