"""The type of index for vectors, chosen by their number. On both Milvuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from loadtest.words import DIMENSION, Models
from serve_app.domain import Document, SearchQuery
from serve_app.retrieval import vector_index
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore
from serve_app.settings.sections import VectorIndex
from tests.retrieval.bases import Base

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]

AUTO = VectorIndex(type="auto")


@pytest.fixture(scope="module")
async def store(uri: str) -> AsyncIterator[MilvusStore]:
    store = MilvusStore(uri, "", timeout_s=120, vectors=AUTO)
    yield store
    await store.close()


def there(store: MilvusStore, name: str) -> Any:
    """The type of index that Milvus has for an index's vectors."""
    with store._milvus.blocking() as client:
        return client.describe_index(name, "dense")["index_type"]


@pytest.mark.parametrize(
    ("rows", "dimension", "on", "chosen", "reason"),
    [
        (0, 384, "2.6", "AUTOINDEX", "0 rows of 384 numbers: few, the server chooses"),
        (100_000, 384, "2.3", "AUTOINDEX", "100,000 rows of 384 numbers: few, the server chooses"),
        (100_001, 384, "2.3", "HNSW", "100,001 rows of 384 numbers: all fit into memory"),
        (2_000_000, 384, "2.6", "HNSW", "2,000,000 rows of 384 numbers: all fit into memory"),
        (2_000_001, 384, "2.6", "HNSW_SQ", "2,000,001 rows of 384 numbers: many, a byte for each"),
        (2_000_001, 384, "2.3", "IVF_SQ8", "2,000,001 rows of 384 numbers: many, a byte for each"),
        (2_000_001, 192, "2.3", "HNSW", "2,000,001 rows of 192 numbers: all fit into memory"),
        (1_000_000, 1024, "2.6", "HNSW_SQ", "1,000,000 rows of 1024 numbers: many"),
        (9_000_000, 384, "lite", "AUTOINDEX", "Milvus Lite chooses itself"),
    ],
)
async def test_more_rows_get_an_index_that_takes_less_for_each(
    rows: int, dimension: int, on: str, chosen: str, reason: str
) -> None:
    made = vector_index.choose(
        AUTO, rows, dimension, embedded=on == "lite", quantized_graph=on == "2.6"
    )
    assert made.type == chosen
    assert made.reason.startswith(reason)


async def test_what_the_settings_name_is_taken(store: MilvusStore) -> None:
    made = vector_index.choose(
        VectorIndex(type="FLAT"), 10**7, 384, embedded=False, quantized_graph=True
    )
    assert (made.type, made.reason) == ("FLAT", "set by retrieval.vector_index")


async def test_a_reindex_chooses_by_what_there_is_by_then(
    base: Base, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = Retriever(base.store, base.registry, Models(), 40, Rules())
    words = "tent boot rope stove lamp map".split()
    documents = [Document(each, "", f"a {each} for all") for each in words]
    await retriever.ingest(collection, "t", documents)
    index = await base.catalogue.index(collection)
    kinds = [(index.vectors, there(base.store, index.name))]
    lite = base.store.embedded
    for in_memory in (100, 0):
        monkeypatch.setattr(vector_index, "_SMALL", 0)
        monkeypatch.setattr(vector_index, "_IN_MEMORY", in_memory)
        made, _ = await base.reindexing(Models()).reindex(
            collection, f"words-{DIMENSION}", DIMENSION, 40
        )
        index = await base.catalogue.index(collection)
        assert index.name == made.name
        kinds.append((index.vectors, there(base.store, index.name)))
        told = "Milvus Lite" if lite else f"6 rows of {DIMENSION} numbers"
        assert index.reason.startswith(told)
        for k in (1, 6, 50):
            found = await Retriever(base.store, base.registry, Models(), 40, Rules()).search(
                collection, "t", SearchQuery("a stove for all", k, "dense")
            )
            assert found[0].document_id == "stove"
            assert len(found) == min(k, 6)
    wanted = ["AUTOINDEX"] * 3 if lite else ["AUTOINDEX", "HNSW", "IVF_SQ8"]
    assert kinds == [(each, each) for each in wanted]
    back, _ = await base.reindexing(Models()).rollback(collection)
    assert back.vectors == wanted[1]
    assert (await base.check(Models(), collection)).is_sound


async def test_an_index_that_is_lost_is_made_again_as_it_was(
    base: Base, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index, "_SMALL", 0)
    retriever = Retriever(base.store, base.registry, Models(), 40, Rules())
    await retriever.ingest(collection, "t", [Document("a", "", "text"), Document("b", "", "text")])
    made, _ = await base.reindexing(Models()).reindex(
        collection, f"words-{DIMENSION}", DIMENSION, 40
    )
    before = there(base.store, made.name)
    await base.store.unalias(collection)
    await base.store.drop(made.name)
    assert (await base.check(Models(), collection, repair=True)).lost == []
    assert there(base.store, made.name) == before == made.vectors
    assert made.vectors == ("AUTOINDEX" if base.store.embedded else "HNSW")
