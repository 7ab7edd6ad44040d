"""On a real Milvus Lite."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from serve_app.domain import Document
from serve_app.errors import NotFound, Unavailable, UnprocessableDocument
from serve_app.retrieval.retriever import Retriever
from serve_app.retrieval.store import MilvusStore, Mode, Row

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]

DIMENSION = 64

HOSTILE = [
    'quote"s',
    "apostrophe's",
    "back\\slash",
    'x" or tenant != "',
    "') or 1 == 1 or ('",
    "new\nline",
    "null\x00byte",
    "percent%_like",
    "{template}",
    "日本語 🎉",
    "with/slash#and hash",
]


def embed(texts: Sequence[str]) -> list[list[float]]:
    """A bag of hashed words, so that texts that share words are near each other."""
    vectors = []
    for text in texts:
        vector = [0.0] * DIMENSION
        for word in text.lower().split():
            vector[hashlib.sha256(word.encode()).digest()[0] % DIMENSION] += 1.0
        norm = math.sqrt(sum(x * x for x in vector)) or 1.0
        vectors.append([x / norm for x in vector])
    return vectors


def rows(document_id: str, *texts: str) -> list[Row]:
    return [
        Row(document_id, i, "Title", "", text, "", {}, embedding)
        for i, (text, embedding) in enumerate(zip(texts, embed(texts), strict=True))
    ]


@pytest.fixture(scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MilvusStore]:
    path: Path = tmp_path_factory.mktemp("milvus") / "test.db"
    store = MilvusStore(str(path), "", DIMENSION, timeout_s=10)
    yield store
    await store.close()


@pytest.fixture
def collection(request: pytest.FixtureRequest) -> str:
    """A collection of its own for each test function."""
    return "c" + hashlib.sha256(request.node.originalname.encode()).hexdigest()[:16]


@pytest.fixture
def retriever(store: MilvusStore) -> Retriever:
    return Retriever(store, embed, chunk_tokens=40)


async def texts_of(store: MilvusStore, collection: str, tenant: str, document: str) -> list[str]:
    return [chunk.text for chunk in await store.chunks(collection, tenant, document)]


async def test_what_was_written_is_read_in_order(store: MilvusStore, collection: str) -> None:
    texts = [f"part {i}" for i in range(12)]
    await store.upsert(collection, "t", rows("doc", *texts))
    chunks = await store.chunks(collection, "t", "doc")
    assert [chunk.text for chunk in chunks] == texts
    assert [chunk.id for chunk in chunks] == [f"doc#{i}" for i in range(12)]


async def test_replacing_by_fewer_chunks_removes_the_stale_ones(
    store: MilvusStore, collection: str
) -> None:
    await store.upsert(collection, "t", rows("doc", "one", "two", "three"))
    await store.upsert(collection, "t", rows("other", "kept one", "kept two"))
    await store.upsert(collection, "t", rows("doc", "new"))
    assert await texts_of(store, collection, "t", "doc") == ["new"]
    assert await texts_of(store, collection, "t", "other") == ["kept one", "kept two"]


async def test_same_id_twice_in_one_batch_leaves_the_last(
    retriever: Retriever, store: MilvusStore, collection: str
) -> None:
    long = "\n\n".join(f"Paragraph {i} " + "old words " * 12 for i in range(4))
    documents = [Document("readme", "Old", long), Document("readme", "New", "The new text.")]
    await retriever.ingest(collection, "t", documents)
    assert await texts_of(store, collection, "t", "readme") == ["The new text."]


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
async def test_every_mode_finds_the_document_that_answers(
    store: MilvusStore, collection: str, mode: Mode
) -> None:
    await store.upsert(collection, "t", rows("hotels", "hotel nights in paris cost 190 euros"))
    await store.upsert(collection, "t", rows("leave", "employees have thirty days of leave"))
    query = "what may a hotel in paris cost"
    (vector,) = embed([query])
    found = await store.search(collection, "t", query, vector, 2, mode)
    assert found[0].document_id == "hotels"
    assert found[0].relevance == pytest.approx(
        sum(x * y for x, y in zip(vector, embed([found[0].text])[0], strict=True)), abs=1e-4
    )
    assert [chunk.score for chunk in found] == sorted((c.score for c in found), reverse=True)


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
async def test_no_more_than_k_are_found(store: MilvusStore, collection: str, mode: Mode) -> None:
    await store.upsert(collection, "t", rows("doc", *(f"tent number {i}" for i in range(9))))
    found = await store.search(collection, "t", "tent", embed(["tent"])[0], 3, mode)
    assert len(found) == 3


@pytest.mark.parametrize("query", ["???", "🎉", "\x00", "the", '" or 1 == 1', "x" * 10_000])
@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
async def test_odd_queries_are_answered(
    store: MilvusStore, collection: str, query: str, mode: Mode
) -> None:
    await store.upsert(collection, "t", rows("doc", "some text"))
    assert len(await store.search(collection, "t", query, embed([query])[0], 3, mode)) <= 1


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
async def test_tenants_never_find_each_others_rows(
    store: MilvusStore, collection: str, mode: Mode
) -> None:
    await store.upsert(collection, "red", rows("plan", "the secret plan of red"))
    await store.upsert(collection, "blue", rows("plan", "the secret plan of blue"))
    found = await store.search(
        collection, "blue", "secret plan", embed(["secret plan"])[0], 10, mode
    )
    assert [chunk.text for chunk in found] == ["the secret plan of blue"]


@pytest.mark.parametrize("document", HOSTILE)
async def test_hostile_document_ids_stay_inside_their_tenant(
    store: MilvusStore, collection: str, document: str
) -> None:
    blue = f"blue {HOSTILE.index(document)}"
    await store.upsert(collection, "red", rows("victim", "red one", "red two"))
    await store.upsert(collection, blue, rows(document, "one", "two"))
    assert await texts_of(store, collection, blue, document) == ["one", "two"]
    await store.upsert(collection, blue, rows(document, "new"))
    assert await texts_of(store, collection, blue, document) == ["new"]
    assert await texts_of(store, collection, "red", document) == []
    assert await store.delete(collection, blue, document) == 1
    assert await store.documents(collection, blue) == []
    assert await texts_of(store, collection, "red", "victim") == ["red one", "red two"]


@pytest.mark.parametrize("tenant", HOSTILE)
async def test_hostile_tenant_names_see_only_their_own(
    store: MilvusStore, collection: str, tenant: str
) -> None:
    await store.upsert(collection, "red", rows("doc", "of red"))
    await store.upsert(collection, tenant, rows("doc", "of the other"))
    found = await store.search(collection, tenant, "of", embed(["of"])[0], 10, "hybrid")
    assert [chunk.text for chunk in found] == ["of the other"]
    assert [chunk.id for chunk in found] == ["doc#0"]
    assert await texts_of(store, collection, "red", "doc") == ["of red"]


async def test_tenant_and_document_are_not_confused_by_slashes(
    store: MilvusStore, collection: str
) -> None:
    await store.upsert(collection, "a", rows("b/c", "of tenant a"))
    await store.upsert(collection, "a/b", rows("c", "of tenant a/b"))
    assert await texts_of(store, collection, "a", "b/c") == ["of tenant a"]


async def test_documents_are_listed_by_id(store: MilvusStore, collection: str) -> None:
    await store.upsert(collection, "t", rows("b", "x", "y"))
    await store.upsert(collection, "t", rows("a", "z"))
    await store.upsert(collection, "other", rows("c", "z"))
    listed = await store.documents(collection, "t")
    assert [document["id"] for document in listed] == ["a", "b"]


async def test_deleted_document_is_gone_and_counted(store: MilvusStore, collection: str) -> None:
    await store.upsert(collection, "t", rows("doc", "one", "two"))
    assert await store.delete(collection, "t", "doc") == 2
    assert await store.chunks(collection, "t", "doc") == []
    assert await store.delete(collection, "t", "doc") == 0


async def test_missing_collection_is_not_found(store: MilvusStore) -> None:
    with pytest.raises(NotFound):
        await store.search("nowhere", "t", "x", embed(["x"])[0], 1, "hybrid")
    with pytest.raises(NotFound):
        await store.documents("nowhere", "t")
    with pytest.raises(NotFound):
        await store.delete("nowhere", "t", "doc")


async def test_collection_name_that_the_api_allows_can_be_used(store: MilvusStore) -> None:
    await store.upsert("my-docs_2", "t", rows("doc", "text"))
    assert await texts_of(store, "my-docs_2", "t", "doc") == ["text"]


async def test_full_batch_can_be_written_and_replaced(store: MilvusStore, collection: str) -> None:
    batch = [row for i in range(256) for row in rows(f"document {i}", "one", "two")]
    await store.upsert(collection, "t", batch)
    await store.upsert(collection, "t", [row for row in batch if row.ordinal == 0])
    assert len(await store.documents(collection, "t")) == 256
    assert await texts_of(store, collection, "t", "document 255") == ["one"]


async def test_survives_reopening(tmp_path: Path) -> None:
    path = str(tmp_path / "again.db")
    store = MilvusStore(path, "", DIMENSION, timeout_s=10)
    await store.upsert("docs", "t", rows("doc", "kept"))
    await store.close()
    store = MilvusStore(path, "", DIMENSION, timeout_s=10)
    assert await texts_of(store, "docs", "t", "doc") == ["kept"]
    await store.close()


async def test_ingest_reports_and_headings_become_paths(
    retriever: Retriever, collection: str
) -> None:
    text = "# Travel\n## Hotels\nParis: 190 euros.\n## Meals\n40 euros."
    document = Document("travel", "Travel", text, {"as_of": "2026-01-01"})
    report = await retriever.ingest(collection, "t", [document])
    assert (report.documents, report.chunks) == (1, 2)
    (found,) = await retriever.search(collection, "t", "hotels in paris", 1)
    assert (found.heading, found.as_of) == ("Travel › Hotels", "2026-01-01")


@pytest.mark.parametrize(
    ("document", "param"),
    [
        (Document("", "t", "text"), "documents[1].id"),
        (Document(" ", "t", "text"), "documents[1].id"),
        (Document("é" * 101, "t", "text"), "documents[1].id"),
        (Document("x", "t" * 1001, "text"), "documents[1].title"),
        (Document("x", "t", " \n "), "documents[1].text"),
        (Document("x", "t", "x" * 20_000), "documents[1].text"),
        (Document("x", "t", f"# {'h ' * 2000}\nbody"), "documents[1].text"),
        (Document("x", "t", "text", {"as_of": "x" * 100}), "documents[1].metadata"),
    ],
    ids=["no id", "blank id", "long id", "long title", "no text", "long word", "heading", "as_of"],
)
async def test_document_that_does_not_fit_is_named_and_nothing_is_written(
    retriever: Retriever, collection: str, document: Document, param: str
) -> None:
    with pytest.raises(UnprocessableDocument) as caught:
        await retriever.ingest(collection, "t", [Document("fine", "t", "text"), document])
    assert str(caught.value.param).startswith(param)
    with pytest.raises(NotFound):
        await retriever.document(collection, "t", "fine")


async def test_missing_document_is_not_found(retriever: Retriever, collection: str) -> None:
    await retriever.ingest(collection, "t", [Document("doc", "t", "text")])
    with pytest.raises(NotFound, match="nothing here"):
        await retriever.document(collection, "t", "nothing here")
    with pytest.raises(NotFound, match="nothing here"):
        await retriever.delete(collection, "t", "nothing here")


async def test_server_that_does_not_answer_is_unavailable() -> None:
    store = MilvusStore("http://127.0.0.1:1", "", DIMENSION, timeout_s=1)
    with pytest.raises(Unavailable):
        await store.search("docs", "t", "x", embed(["x"])[0], 1, "dense")
