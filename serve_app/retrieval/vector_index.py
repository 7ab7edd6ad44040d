"""Which type of index a server is to have for the vectors of a collection, by their number.

`DISKANN` is never chosen: a server whose query nodes have no disk for it (`queryNode.enableDisk`)
accepts it all the same, and builds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.settings.sections import VectorIndex

# Rows of vectors of 384 numbers; of longer ones fewer.
_SMALL, _IN_MEMORY = 100_000, 2_000_000
_NUMBERS = 384

_GRAPH = {"M": 16, "efConstruction": 200}
_BUILD: dict[str, dict[str, Any]] = {
    "HNSW": _GRAPH,
    "HNSW_SQ": {**_GRAPH, "sq_type": "SQ8"},
    "IVF_SQ8": {"nlist": 1024},
}
_LOOKED_AT = 128  # neighbours that a search in a graph keeps, at least
_LISTS = 64  # of `nlist`


@dataclass(frozen=True, slots=True)
class Choice:
    """A type, in the server's own words, and why it is that."""

    type: str
    reason: str


def choose(
    settings: VectorIndex, rows: int, dimension: int, *, embedded: bool, quantized_graph: bool
) -> Choice:
    """The type for so many rows.

    Args:
        embedded: In Milvus Lite.
        quantized_graph: The server has `HNSW_SQ` (2.5 and later).
    """
    if settings.type != "auto":
        return Choice(settings.type, "set by retrieval.vector_index")
    if embedded:
        return Choice("AUTOINDEX", "Milvus Lite chooses itself")
    size = f"{rows:,} rows of {dimension} numbers"
    if rows * dimension <= _SMALL * _NUMBERS:
        return Choice("AUTOINDEX", f"{size}: few, the server chooses")
    if rows * dimension <= _IN_MEMORY * _NUMBERS:
        return Choice("HNSW", f"{size}: all fit into memory")
    smaller = "HNSW_SQ" if quantized_graph else "IVF_SQ8"
    return Choice(smaller, f"{size}: many, a byte for each number")


def building(settings: VectorIndex, chosen: str) -> dict[str, Any]:
    """Parameters for an index of a type that was chosen."""
    return dict(settings.build if chosen == settings.type else _BUILD.get(chosen, {}))


def searching(settings: VectorIndex, there: str, limit: int) -> Mapping[str, Any]:
    """Parameters for a search in an index of a type; empty for one that is not known."""
    if settings.type != "auto" or there not in _BUILD:
        return settings.search
    return {"nprobe": _LISTS} if there == "IVF_SQ8" else {"ef": max(_LOOKED_AT, limit)}
