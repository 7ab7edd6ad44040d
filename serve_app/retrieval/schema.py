"""A row as Milvus keeps it: its fields, and the ways from our words to them and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pymilvus import CollectionSchema, DataType, Function, FunctionType, MilvusClient
from pymilvus.milvus_client.index import IndexParams

from serve_app.domain import Chunk
from serve_app.retrieval.admission import MOST_GROUPS
from serve_app.retrieval.index import Place, Row, Stored
from serve_app.retrieval.ranking import Hit
from serve_app.retrieval.registry.entries import Copy, Facts, document_key
from serve_app.search_text import MAX_BYTES, searchable, shown

Field = Literal["dense", "sparse"]
Vector = Sequence[float]

CHUNK = ["id", "document_id", "ordinal", "title", "heading", "text", "as_of", "time", "series"]
_ROW = [*CHUNK[1:], "tenant", "source", "tokens", "metadata", "allow"]
STORED = [*_ROW, "version", "since", "until", "dense"]
FIRST_LAYOUT = [*(name for name in _ROW if name != "allow"), "dense"]
FACTS = [
    *("tenant", "document_id", "title", "as_of", "time", "series", "source", "tokens"),
    *("ordinal", "version", "since", "until", "allow"),
]
PLACE = ["id", "tenant", "document_id", "ordinal", "version", "since", "until"]
METRIC = {"dense": {"metric_type": "IP"}, "sparse": {"metric_type": "BM25"}}
# Filters name them; an index spares Milvus a look at every row. `since` and `until` are named too,
# but nearly every row is between them: those a scan finds sooner.
_FILTERED_TEXTS = ["tenant", "document_id"]
_FILTERED_NUMBERS = ["time"]
# The usual short list (Lucene's); they would otherwise be most of a question's terms.
_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
).split()
_ANALYZER = {
    "tokenizer": "standard",
    "filter": ["lowercase", {"type": "stop", "stop_words": _STOP_WORDS}],
}


@dataclass(frozen=True, slots=True)
class Scalars:
    """The kinds of index that a server has for texts and for numbers."""

    texts: str
    numbers: str

    @classmethod
    def of(cls, version: str) -> Scalars:
        """Of a server of this version: 2.3 has no inverted ones, Lite no others."""
        if version.startswith("milvus_lite") or at_least(version, (2, 4)):
            return cls("INVERTED", "INVERTED")
        return cls("Trie", "STL_SORT")


def at_least(version: str, wanted: tuple[int, int]) -> bool:
    """Whether a server's version, as it says it, is that one or later."""
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= wanted


def computes_bm25(version: str) -> bool:
    """Whether a server of this version has the BM25 function."""
    return version.startswith("milvus_lite") or at_least(version, (2, 5))


def fields(dimension: int, *, sparse: bool) -> CollectionSchema:
    """The schema of an index.

    Args:
        dimension: Of the embedding.
        sparse: With BM25 weights, which the server computes.
    """
    schema = MilvusClient.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=512)
    # Seen in 2.3: an upsert puts rows into the wrong partition, where filters do not find them.
    schema.add_field("tenant", DataType.VARCHAR, max_length=128, is_partition_key=sparse)
    schema.add_field("document_id", DataType.VARCHAR, max_length=256)
    schema.add_field("ordinal", DataType.INT64)
    schema.add_field("title", DataType.VARCHAR, max_length=1024)
    schema.add_field("heading", DataType.VARCHAR, max_length=2048)
    analysed = {"enable_analyzer": True, "analyzer_params": _ANALYZER} if sparse else {}
    schema.add_field("text", DataType.VARCHAR, max_length=MAX_BYTES, **analysed)
    schema.add_field("as_of", DataType.VARCHAR, max_length=64)
    schema.add_field("time", DataType.INT64)
    schema.add_field("series", DataType.VARCHAR, max_length=256)
    schema.add_field("source", DataType.VARCHAR, max_length=2048)
    schema.add_field("tokens", DataType.INT64)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field(
        "allow",
        DataType.ARRAY,
        element_type=DataType.VARCHAR,
        max_capacity=MOST_GROUPS,
        max_length=256,
    )
    schema.add_field("hash", DataType.VARCHAR, max_length=32)
    schema.add_field("version", DataType.INT64)
    schema.add_field("since", DataType.INT64)
    schema.add_field("until", DataType.INT64)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dimension)
    if sparse:
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function(
                name="bm25",
                function_type=FunctionType.BM25,
                input_field_names=["text"],
                output_field_names=["sparse"],
            )
        )
    return schema


def search_indexes(
    vectors: str, building: Mapping[str, Any], scalars: Scalars, *, sparse: bool
) -> IndexParams:
    """What Milvus builds so that rows are found fast.

    Args:
        vectors, building: The type of index for vectors, and its parameters.
    """
    made = MilvusClient.prepare_index_params()
    made.add_index("dense", index_type=vectors, params=dict(building), **METRIC["dense"])
    if sparse:
        made.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", **METRIC["sparse"])
    for names, kind in ((_FILTERED_TEXTS, scalars.texts), (_FILTERED_NUMBERS, scalars.numbers)):
        for name in names:
            made.add_index(name, index_type=kind)
    return made


def record(stored: Stored) -> dict[str, Any]:
    """What is written for a row."""
    row = stored.row
    return {
        **{name: getattr(row, name) for name in _ROW},
        "text": searchable(row.text),
        "metadata": dict(row.metadata),
        "allow": list(row.allow),
        "id": stored.id,
        "hash": row.hash,
        "version": stored.version,
        "since": stored.since,
        "until": stored.until,
        "dense": list(stored.vector),
    }


def stored(found: Mapping[str, Any]) -> Stored:
    """A row that was read with `STORED`."""
    named = {name: found[name] for name in _ROW if name != "allow"} | {"text": shown(found["text"])}
    row = Row(**named, allow=_allow(found))
    vector = [float(each) for each in found["dense"]]
    return Stored(row, found["version"], found["since"], found["until"], vector)


def place_of(found: Mapping[str, Any]) -> Place:
    """A row that was read with `PLACE`."""
    return Place(**{name: found[name] for name in PLACE})


def documents(found: Iterable[Mapping[str, Any]]) -> list[tuple[Facts, Copy]]:
    """Documents of rows that were read with `FACTS`: of each the latest version that is whole."""
    versions: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in found:
        key = document_key(row["tenant"], row["document_id"])
        versions.setdefault((key, row["version"]), []).append(row)
    latest: dict[str, tuple[Facts, Copy]] = {}
    for (key, version), rows in sorted(versions.items(), key=lambda pair: pair[0]):
        if {row["ordinal"] for row in rows} != set(range(len(rows))):
            continue
        row = rows[0]
        facts = Facts(
            row["tenant"],
            row["document_id"],
            row["title"],
            row["as_of"],
            row["time"],
            row["series"],
            row["source"],
            allow=_allow(row),
        )
        tokens = sum(each["tokens"] for each in rows)
        dates = (row["since"], row["until"])
        latest[key] = facts, Copy(key, facts.tenant, version, *dates, len(rows), tokens)
    return list(latest.values())


def _allow(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Whom a row is for; those of the first layout are for everybody."""
    return tuple(found.get("allow") or ())


def chunk(stored: Mapping[str, Any], score: float = 0.0, relevance: float = 0.0) -> Chunk:
    return Chunk(
        id=f"{stored['document_id']}#{stored['ordinal']}",
        document_id=str(stored["document_id"]),
        title=str(stored["title"]),
        heading=str(stored["heading"]),
        text=shown(str(stored["text"])),
        as_of=str(stored["as_of"]) or None,
        score=score,
        relevance=relevance,
    )


def chunk_of(row: Row) -> Chunk:
    """What is read of a row when it is stored."""
    return chunk({name: getattr(row, name) for name in _ROW})


def hit(found: Any, field: Field) -> Hit:
    """What a search by a field has found."""
    entity, distance = found["entity"], float(found["distance"])
    vector = np.asarray(entity.get("dense") or (), dtype=np.float32)
    of = chunk(entity, score=distance, relevance=distance if field == "dense" else 0.0)
    return Hit(str(entity["id"]), of, int(entity["time"]), str(entity["series"]), vector)


def unsearched(stored: Mapping[str, Any]) -> Hit:
    """A row that was read, not found by a search."""
    return Hit(str(stored["id"]), chunk(stored), int(stored["time"]), str(stored["series"]))


def place(stored: Mapping[str, Any]) -> tuple[str, int]:
    """Its document, and where it stands in it."""
    return str(stored["document_id"]), int(stored["ordinal"])
