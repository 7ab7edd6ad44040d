"""The vector database: rows in, nearest rows out. One code path for Milvus Lite and server.

A collection's name is an alias of the *index* in force, a Milvus collection `<name>__<version>`
that knows by which model it was embedded. Readers and writers address an index; filling a new one
and moving the alias disturbs nobody (`pipeline.reindex`).

An index holds dense vectors (inner product of unit vectors, i.e. cosine) and, where the server can
compute them (2.5 and later, and Lite), BM25 weights of the text.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pymilvus import (
    AsyncMilvusClient,
    DataType,
    Function,
    FunctionType,
    MilvusClient,
    MilvusException,
)

from serve_app.domain import Chunk
from serve_app.errors import InvalidRequest, NotFound, SettingsError, Unavailable
from serve_app.retrieval.index import Known, Row
from serve_app.retrieval.ranking import Hit

log = logging.getLogger(__name__)

Field = Literal["dense", "sparse"]
Vector = Sequence[float]

# Milvus's error codes
_NOT_CONNECTED = 2
_NOT_LOADED = 101
_CHUNK = ["id", "document_id", "ordinal", "title", "heading", "text", "as_of", "time", "series"]
_ROW = [*_CHUNK, "tenant", "source", "tokens", "metadata"]
_KNOWN = ["id", "tenant", "document_id", "stamp", "source", "written"]
_METRIC = {"dense": {"metric_type": "IP"}, "sparse": {"metric_type": "BM25"}}
_PAGE = 1000  # rows in one write, keys in one read
_SCAN = 50_000  # rows in one page of a scan, about
_FLUSHED = 256  # rows that Milvus Lite may hold unflushed
_ALIAS_TTL_S = 1.0
# pymilvus pings an idle connection every ten seconds. A Milvus server allows that; the server
# inside Milvus Lite closes the connection for it ("too many pings"), and the next call fails.
_NO_PINGS = {"grpc.keepalive_time_ms": 2**31 - 1}
# The usual short list (Lucene's); they would otherwise be most of a question's terms.
_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
).split()


@dataclass(frozen=True, slots=True)
class Index:
    """One version of a collection.

    Attributes:
        name: Of the Milvus collection, `<collection>__<version>`.
        model: The embedding model's name in the settings.
        chunk_tokens: Upper bound of a chunk.
        sparse: It can be searched by BM25.
    """

    name: str
    model: str
    dimension: int
    chunk_tokens: int
    sparse: bool

    @property
    def version(self) -> int:
        return int(self.name.rpartition("__")[2])


@dataclass(frozen=True, slots=True)
class Where:
    """Which rows of a tenant to look at.

    Attributes:
        metadata: Values that fields of the document's metadata must have.
        since, until: Half-open bounds on the document's time, Unix seconds.
    """

    tenant: str
    metadata: Mapping[str, str | int | float | bool] | None = None
    since: float | None = None
    until: float | None = None

    def expression(self) -> str:
        """In Milvus's filter language."""
        terms = [f"tenant == {literal(self.tenant)}"]
        for name, value in (self.metadata or {}).items():
            wanted = literal(value) if isinstance(value, str) else json.dumps(value)
            terms.append(f"metadata[{literal(name)}] == {wanted}")
        if self.since is not None:
            terms.append(f"time >= {int(self.since)}")
        if self.until is not None:
            # A document without a time is older than any bound, not within it.
            terms.append(f"time > 0 and time < {int(self.until)}")
        return " and ".join(terms)


class MilvusStore:
    """Rows of all collections.

    Every method raises `Unavailable` when Milvus does not answer within `timeout_s`.

    Raises:
        SettingsError: The folder of an embedded database cannot be made.
    """

    def __init__(self, uri: str, token: str, timeout_s: float) -> None:
        self._connection: dict[str, Any] = {"uri": uri, "token": token}
        self._embedded = "://" not in uri
        if self._embedded:
            self._connection["grpc_options"] = _NO_PINGS
            _make_folder(Path(uri).parent)
        self._client = AsyncMilvusClient(**self._connection)
        self._unflushed: Counter[str] = Counter()
        self._timeout = timeout_s
        self._in_force: dict[str, tuple[float, Index]] = {}
        self._bm25: bool | None = None

    # Indexes

    async def index(self, collection: str) -> Index:
        """The index in force; one that was replaced is noticed within a second.

        Raises:
            NotFound: Nothing was ever put into the collection.
        """
        known = self._in_force.get(collection)
        if known and time.monotonic() - known[0] < _ALIAS_TTL_S:
            return known[1]
        with _translated():
            if not await self._client.has_collection(collection, timeout=self._timeout):
                raise NotFound(
                    f"there is no collection {collection!r}; PUT a document into it to create it",
                    param="collection",
                )
            found = await self._described(collection)
        if known is None or known[1].name != found.name:
            with _translated():
                await self._client.load_collection(found.name, timeout=self._timeout)
        self._in_force[collection] = (time.monotonic(), found)
        return found

    async def ensure(self, collection: str, model: str, dimension: int, chunk_tokens: int) -> Index:
        """The index in force, created if there is none."""
        with contextlib.suppress(NotFound):
            return await self.index(collection)
        made = await self.create(collection, model, dimension, chunk_tokens)
        await self.switch(collection, made.name)
        return made

    async def create(self, collection: str, model: str, dimension: int, chunk_tokens: int) -> Index:
        """A new, empty index beside those there are; not in force yet."""
        versions = await self.versions(collection)
        name = f"{collection}__{max((each.version for each in versions), default=0) + 1}"
        index = Index(name, model, dimension, chunk_tokens, await self._computes_bm25())
        with _translated():
            await asyncio.to_thread(self._create, index)
            await self._client.load_collection(name, timeout=self._timeout)
        return index

    async def switch(self, collection: str, name: str) -> None:
        """Put an index in force: from now on the collection's name means it."""
        self._in_force.pop(collection, None)
        with _translated():
            if await self._client.has_collection(collection, timeout=self._timeout):
                await self._client.alter_alias(name, collection, timeout=self._timeout)
            else:
                await self._client.create_alias(name, collection, timeout=self._timeout)

    async def drop(self, name: str) -> None:
        """Remove an index that is not in force."""
        with _translated():
            await self._client.drop_collection(name, timeout=self._timeout)

    async def versions(self, collection: str) -> list[Index]:
        """Every index of a collection, oldest first."""
        with _translated():
            names = await self._client.list_collections(timeout=self._timeout)
            own = [n for n in names if re.fullmatch(rf"{re.escape(collection)}__\d+", n)]
            found = [await self._described(name) for name in own]
        return sorted(found, key=lambda each: each.version)

    # Rows

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
        with _translated():
            for start in range(0, len(rows), _PAGE):
                await self._client.upsert(
                    index.name,
                    [_record(row, vector, now) for row, vector in rows[start : start + _PAGE]],
                    timeout=self._timeout,
                )
        await self._settle(index, len(rows))

    async def remove(self, index: Index, keys: Sequence[str]) -> None:
        with _translated():
            for start in range(0, len(keys), _PAGE):
                await self._client.delete(
                    index.name, ids=list(keys[start : start + _PAGE]), timeout=self._timeout
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
        found = await self._all(index, " and ".join(terms), _KNOWN)
        return {
            row["id"]: Known(
                (row["tenant"], row["document_id"]), row["stamp"], row["source"], row["written"]
            )
            for row in found
        }

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
        found = await self._all(index, "", _ROW)
        documents: dict[tuple[str, str], list[Row]] = {}
        for each in found:
            row = Row(**{name: each[name] for name in _ROW})
            documents.setdefault((row.tenant, row.document_id), []).append(row)
        return [sorted(rows, key=lambda row: row.ordinal) for rows in documents.values()]

    async def chunks(self, index: Index, tenant: str, document_id: str) -> list[Chunk]:
        """All chunks of a document in their order; empty when there is none."""
        where = f"tenant == {literal(tenant)} and document_id == {literal(document_id)}"
        rows = await self._all(index, where, _CHUNK)
        return [_chunk(row) for row in sorted(rows, key=_place)]

    async def everything(self, index: Index, tenant: str) -> list[Hit]:
        """All chunks of a tenant, by document and place: the same order each time."""
        rows = await self._all(index, f"tenant == {literal(tenant)}", _CHUNK)
        return [
            Hit(str(row["id"]), _chunk(row), int(row["time"]), str(row["series"]))
            for row in sorted(rows, key=_place)
        ]

    async def tokens(self, index: Index, tenant: str) -> list[int]:
        """Of each chunk of a tenant."""
        rows = await self._all(index, f"tenant == {literal(tenant)}", ["tokens"])
        return [int(row["tokens"]) for row in rows]

    async def documents(self, index: Index, tenant: str) -> list[dict[str, Any]]:
        """Id, title and `as_of` of every document of a tenant, ordered by id."""
        found = await self._all(
            index,
            f"tenant == {literal(tenant)} and ordinal == 0",
            ["document_id", "title", "as_of"],
        )
        listed = [
            {"id": row["document_id"], "title": row["title"], "as_of": row["as_of"] or None}
            for row in found
        ]
        return sorted(listed, key=lambda each: str(each["id"]))

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
        """The nearest rows by one field, best first; `vectors` asks for theirs too."""
        wanted = [*_CHUNK, "dense"] if vectors else _CHUNK

        async def search() -> Any:
            return await self._client.search(
                index.name,
                data=[query],
                anns_field=field,
                search_params=_METRIC[field],
                filter=where.expression(),
                limit=limit,
                output_fields=wanted,
                timeout=self._timeout,
            )

        (found,) = await self._loaded(index, search)
        return [_hit(hit, field) for hit in found]

    async def close(self) -> None:
        await self._client.close()

    # How

    async def _settle(self, index: Index, written: int) -> None:
        """Milvus Lite copies what is not flushed for each search; a server sees to it itself."""
        if not self._embedded:
            return
        self._unflushed[index.name] += written
        if self._unflushed[index.name] < _FLUSHED:
            return
        self._unflushed[index.name] = 0
        with _translated():
            await self._client.flush(index.name, timeout=self._timeout)
            await self._client.load_collection(index.name, timeout=self._timeout)

    async def _query(self, index: Index, where: str, fields: list[str]) -> list[dict[str, Any]]:
        async def query() -> Any:
            return await self._client.query(
                index.name,
                filter=where,
                output_fields=fields,
                consistency_level="Strong",
                timeout=self._timeout,
            )

        return list(await self._loaded(index, query))

    async def _loaded(self, index: Index, read: Callable[[], Awaitable[Any]]) -> Any:
        """Read from an index; once more where Milvus has restarted or dropped the connection."""
        try:
            return await read()
        except MilvusException as error:
            if error.code not in (_NOT_CONNECTED, _NOT_LOADED):
                raise _unavailable(error) from error
        with _translated():
            await self._client.load_collection(index.name, timeout=self._timeout)
            return await read()

    async def _all(self, index: Index, where: str, fields: list[str]) -> list[dict[str, Any]]:
        """Every row, however many. Reads what was written before, by anybody."""
        with _translated():
            about = await self._client.get_collection_stats(index.name, timeout=self._timeout)
        # Keys are hashes, so their first digits divide the rows evenly.
        digits = max(0, math.ceil(math.log(max(1, int(about["row_count"])) / _SCAN, 16)))
        rows: list[dict[str, Any]] = []
        for prefix in itertools.product("0123456789abcdef", repeat=digits):
            terms = [f'id like "{"".join(prefix)}%"', where]
            rows += await self._query(index, " and ".join(filter(None, terms)), fields)
        return rows

    async def _described(self, name: str) -> Index:
        about = await self._client.describe_collection(name, timeout=self._timeout)
        properties = about.get("properties") or {}
        if "trivium.model" not in properties:
            raise Unavailable(
                f"the collection {name!r} was not made by this version of Trivium; "
                "ingest into another one, or remove it"
            )
        names = {field["name"]: field for field in about["fields"]}
        return Index(
            about["collection_name"],
            properties["trivium.model"],
            int(names["dense"]["params"]["dim"]),
            int(properties["trivium.chunk_tokens"]),
            "sparse" in names,
        )

    async def _computes_bm25(self) -> bool:
        if self._bm25 is None:
            with _translated():
                version = str(await self._client.get_server_version(timeout=self._timeout))
            self._bm25 = computes_bm25(version)
            if not self._bm25:
                log.warning(
                    "Milvus %s cannot compute BM25 (2.5 and later can): searches are dense only",
                    version,
                )
        return self._bm25

    def _create(self, index: Index) -> None:
        """Blocking: the async client builds indexes by a call that Milvus Lite does not know."""
        schema = MilvusClient.create_schema(enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=512)
        # Seen in 2.3: an upsert puts rows into the wrong partition, where filters do not find them.
        schema.add_field("tenant", DataType.VARCHAR, max_length=128, is_partition_key=index.sparse)
        schema.add_field("document_id", DataType.VARCHAR, max_length=256)
        schema.add_field("ordinal", DataType.INT64)
        schema.add_field("title", DataType.VARCHAR, max_length=1024)
        schema.add_field("heading", DataType.VARCHAR, max_length=2048)
        schema.add_field(
            "text",
            DataType.VARCHAR,
            max_length=16384,
            **({"enable_analyzer": True, "analyzer_params": _ANALYZER} if index.sparse else {}),
        )
        schema.add_field("as_of", DataType.VARCHAR, max_length=64)
        schema.add_field("time", DataType.INT64)
        schema.add_field("series", DataType.VARCHAR, max_length=256)
        schema.add_field("source", DataType.VARCHAR, max_length=2048)
        schema.add_field("tokens", DataType.INT64)
        schema.add_field("metadata", DataType.JSON)
        schema.add_field("stamp", DataType.VARCHAR, max_length=32)
        schema.add_field("written", DataType.INT64)
        schema.add_field("dense", DataType.FLOAT_VECTOR, dim=index.dimension)
        indexes = MilvusClient.prepare_index_params()
        indexes.add_index("dense", index_type="AUTOINDEX", **_METRIC["dense"])
        if index.sparse:
            schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
            schema.add_function(
                Function(
                    name="bm25",
                    function_type=FunctionType.BM25,
                    input_field_names=["text"],
                    output_field_names=["sparse"],
                )
            )
            indexes.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", **_METRIC["sparse"])
        with self._blocking() as client:
            client.create_collection(
                index.name,
                schema=schema,
                index_params=indexes,
                properties={
                    "trivium.model": index.model,
                    "trivium.chunk_tokens": str(index.chunk_tokens),
                },
                # Who wrote reads it back at once; others a moment later.
                consistency_level="Session",
                timeout=self._timeout,
            )

    @contextlib.contextmanager
    def _blocking(self) -> Iterator[MilvusClient]:
        client = MilvusClient(**self._connection, timeout=self._timeout)
        try:
            yield client
        finally:
            client.close()


_ANALYZER = {
    "tokenizer": "standard",
    "filter": ["lowercase", {"type": "stop", "stop_words": _STOP_WORDS}],
}


def computes_bm25(version: str) -> bool:
    """Whether a server of this version has the BM25 function."""
    if "lite" in version and version.startswith("milvus_lite"):
        return True
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (2, 5)


def literal(text: str) -> str:
    """A string literal of Milvus's filter language; what a caller wrote cannot leave it."""
    quoted = json.dumps(text, ensure_ascii=False)
    # JSON's escapes but for `\\u00XX`, which Milvus does not know: it takes those as they are.
    return re.sub(r"(?<!\\)((?:\\\\)*)\\u00([0-9a-f]{2})", _control, quoted)


def _control(escape: re.Match[str]) -> str:
    return escape[1] + chr(int(escape[2], 16))


def _record(row: Row, vector: Vector, now: int) -> dict[str, Any]:
    record = {name: getattr(row, name) for name in _ROW}
    return {
        **record,
        "metadata": dict(row.metadata),
        "stamp": row.stamp,
        "written": now,
        "dense": list(vector),
    }


def _hit(hit: Any, field: Field) -> Hit:
    entity = hit["entity"]
    distance = float(hit["distance"])
    vector = tuple(float(x) for x in entity.get("dense") or ())
    chunk = _chunk(entity, score=distance, relevance=distance if field == "dense" else 0.0)
    return Hit(str(entity["id"]), chunk, int(entity["time"]), str(entity["series"]), vector)


def _place(row: Mapping[str, Any]) -> tuple[str, int]:
    return str(row["document_id"]), int(row["ordinal"])


def _chunk(row: Mapping[str, Any], score: float = 0.0, relevance: float = 0.0) -> Chunk:
    return Chunk(
        id=f"{row['document_id']}#{row['ordinal']}",
        document_id=str(row["document_id"]),
        title=str(row["title"]),
        heading=str(row["heading"]),
        text=str(row["text"]),
        as_of=str(row["as_of"]) or None,
        score=score,
        relevance=relevance,
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"{folder}: the knowledge base cannot be kept there ({error.strerror}); "
            "set state_dir or retrieval.milvus_uri to another place"
        ) from None


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except MilvusException as error:
        raise _unavailable(error) from error


def _unavailable(error: MilvusException) -> Unavailable:
    unavailable = Unavailable(
        "the disk of the knowledge base is full; free some space and try again"
        if "No space left on device" in error.message
        else "the knowledge base is not reachable; try again shortly"
    )
    unavailable.add_note(f"Milvus: {error.code} {error.message}")
    return unavailable
