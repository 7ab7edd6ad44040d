"""Milvus Lite made to answer as the server does. Importing this loads Milvus Lite.

Lite 3.2.2 scores each part of a collection (a segment, or the rows not flushed yet) by the part's
own document frequencies and mean length. In a part of a few rows every word is frequent: what was
just written loses against any old text that has one word of the query. Milvus's server scores by
the collection's statistics, as BM25 is defined (Robertson and Zaragoza, "The Probabilistic
Relevance Framework: BM25 and Beyond", 2009), and with `share_statistics` so does Lite.

Its filters compare as Python does, where `True == 1`. The server tells the two apart, and with
`tell_truth_from_numbers` so does Lite.

It serves calls in several threads, and neither writes nor reads of a collection wait for a flush of
it: rows are lost for good between two memory tables, or are missing to who reads meanwhile. With
`one_call_at_a_time` they wait.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from milvus_lite.engine.collection import Collection
from milvus_lite.index import sparse_factory
from milvus_lite.index.sparse_inverted import SparseInvertedIndex
from milvus_lite.search.filter.eval import python_backend

_CALLS = ("insert", "upsert", "delete", "flush", "query", "get", "search", "close")

_segments: ContextVar[Sequence[SparseInvertedIndex]] = ContextVar("of the collection searched")


@functools.cache
def share_statistics() -> None:
    """Let every search of Milvus Lite in this process score by its collection's statistics."""
    search_collection = Collection._search_sparse
    search_part = sparse_factory._search_prepared_sparse_index

    def over_all(self: Any, *args: Any, **rest: Any) -> Any:
        known = _indexes(self, rest["vector_field"])
        token = _segments.set(known)
        try:
            found = search_collection(self, *args, **rest)
            # A segment's first search indexes it; only now does it count in the others' scores.
            indexed = _indexes(self, rest["vector_field"])
            if len(indexed) == len(known):
                return found
            _segments.set(indexed)
            return search_collection(self, *args, **rest)
        finally:
            _segments.reset(token)

    def part(index: Any, queries: Any, *args: Any, **rest: Any) -> Any:
        if isinstance(index, SparseInvertedIndex):
            index = _shared(index, _segments.get(), {term for query in queries for term in query})
        return search_part(index, queries, *args, **rest)

    Collection._search_sparse = over_all
    sparse_factory._search_prepared_sparse_index = part


@functools.cache
def tell_truth_from_numbers() -> None:
    """Let `==` in every filter of Milvus Lite in this process hold `true` for no number."""
    python_backend._CMP_OPS["=="] = _same


@functools.cache
def one_call_at_a_time() -> None:
    """Let no two calls on one collection of Milvus Lite in this process overlap.

    To be done before a collection is opened. What Lite does in the background has a lock already.
    """
    make = Collection.__init__

    def made(self: Any, *args: Any, **rest: Any) -> None:
        self._calls = threading.RLock()
        make(self, *args, **rest)

    Collection.__init__ = made
    for name in _CALLS:
        setattr(Collection, name, _alone(getattr(Collection, name)))


def _alone(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def alone(self: Any, *args: Any, **rest: Any) -> Any:
        with self._calls:
            return call(self, *args, **rest)

    return alone


def _same(left: Any, right: Any) -> bool:
    return isinstance(left, bool) is isinstance(right, bool) and bool(left == right)


def _indexes(collection: Any, field: str) -> list[SparseInvertedIndex]:
    segments, _ = collection._read_snapshot()
    found = (segment.sparse_indexes.get(field) for segment in segments)
    return [index for index in found if isinstance(index, SparseInvertedIndex)]


def _shared(
    index: SparseInvertedIndex, segments: Sequence[SparseInvertedIndex], terms: set[int]
) -> SparseInvertedIndex:
    """An index's postings, with the statistics of all segments and its own."""
    parts = segments if any(each is index for each in segments) else [*segments, index]
    shared = copy.copy(index)
    shared.doc_count = sum(each.doc_count for each in parts)
    shared.avgdl = sum(each.avgdl * each.doc_count for each in parts) / max(1, shared.doc_count)
    shared._df = {term: sum(each._df.get(term, 0) for each in parts) for term in terms}
    return shared
