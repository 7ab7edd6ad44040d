"""A row as Milvus keeps it: its fields, and the ways from our words to them and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pymilvus import CollectionSchema, DataType, Function, FunctionType, MilvusClient
from pymilvus.milvus_client.index import IndexParams

from serve_app.domain import Chunk
from serve_app.retrieval.index import Known, Row
from serve_app.retrieval.ranking import Hit
from serve_app.retrieval.search_text import MAX_BYTES, searchable, shown

Field = Literal["dense", "sparse"]
Vector = Sequence[float]

CHUNK = ["id", "document_id", "ordinal", "title", "heading", "text", "as_of", "time", "series"]
ROW = [*CHUNK, "tenant", "source", "tokens", "metadata"]
KNOWN = ["id", "tenant", "document_id", "stamp", "source", "written"]
METRIC = {"dense": {"metric_type": "IP"}, "sparse": {"metric_type": "BM25"}}
# The usual short list (Lucene's); they would otherwise be most of a question's terms.
_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
).split()
_ANALYZER = {
    "tokenizer": "standard",
    "filter": ["lowercase", {"type": "stop", "stop_words": _STOP_WORDS}],
}


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
    schema.add_field("stamp", DataType.VARCHAR, max_length=32)
    schema.add_field("written", DataType.INT64)
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


def search_indexes(*, sparse: bool) -> IndexParams:
    """What Milvus builds so that an index's vectors are found fast."""
    made = MilvusClient.prepare_index_params()
    made.add_index("dense", index_type="AUTOINDEX", **METRIC["dense"])
    if sparse:
        made.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", **METRIC["sparse"])
    return made


def record(row: Row, vector: Vector, now: int) -> dict[str, Any]:
    """What is written for a row; `now` is in Unix milliseconds."""
    return {
        **{name: getattr(row, name) for name in ROW},
        "text": searchable(row.text),
        "metadata": dict(row.metadata),
        "stamp": row.stamp,
        "written": now,
        "dense": list(vector),
    }


def row(stored: Mapping[str, Any]) -> Row:
    return Row(**{name: stored[name] for name in ROW} | {"text": shown(stored["text"])})


def known(stored: Mapping[str, Any]) -> Known:
    document = (stored["tenant"], stored["document_id"])
    return Known(document, stored["stamp"], stored["source"], stored["written"])


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
