"""Documents read back and put again at once: whole, as they were put. On both Milvuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import update

from loadtest.words import DIMENSION, HashedWords, Models
from serve_app.domain import Document
from serve_app.errors import NotFound
from serve_app.retrieval.registry import tables
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore
from tests.retrieval.bases import Base, indexed

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]

TEXT = "# Size\nThe tent \u00ad sleeps two.\n\n# Price\nIt costs 190 euros."
CHUNKS = [("Size", "The tent  sleeps two."), ("Price", "It costs 190 euros.")]


@pytest.fixture
def milvus_shows_nothing(store: MilvusStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As between a write and a server's next time tick."""

    async def query(*_: Any, **__: Any) -> list[Any]:
        raise AssertionError("Milvus was asked")

    monkeypatch.setattr(store._client, "query", query)


def long_table(rows: int) -> str:
    lines = "\n".join(f"| part {i} | {i} |" for i in range(rows))
    return f"# Parts\n| name | number |\n|---|---|\n{lines}"


async def read(
    retriever: Retriever, collection: str, tenant: str = "t", groups: str = ""
) -> list[tuple[str, str]]:
    """Headings and texts of the document's chunks."""
    found = await retriever.document(collection, tenant, "d", tuple(groups.split()))
    return [(chunk.heading, chunk.text) for chunk in found.chunks]


async def test_what_was_put_is_read_at_once_as_it_was_put(
    retriever: Retriever, collection: str, milvus_shows_nothing: None
) -> None:
    put = Document("d", "Tent", TEXT, {"as_of": "2026-01-01", "n": 3})
    await retriever.ingest(collection, "t", [put])
    found = await retriever.document(collection, "t", "d")
    assert [(chunk.heading, chunk.text) for chunk in found.chunks] == CHUNKS
    assert [(c.id, c.title, c.as_of) for c in found.chunks] == [
        ("d#0", "Tent", "2026-01-01"),
        ("d#1", "Tent", "2026-01-01"),
    ]
    assert found.original is not None
    assert (found.original.title, found.original.text) == ("Tent", TEXT)
    assert found.original.metadata == {"as_of": "2026-01-01", "n": 3}


async def test_of_what_is_put_again_at_once_only_what_changed_is_embedded(
    retriever: Retriever, models: Models, collection: str, milvus_shows_nothing: None
) -> None:
    for text in (TEXT, f"{TEXT}\n# Weight\nTwo kilos.", "# Weight\nTwo kilos."):
        models.model(models.default).embedded.clear()
        done = await retriever.ingest(collection, "t", [Document("d", "Tent", text)])
        assert len(models.model(models.default).embedded) == done.embedded
        said = (done.chunks, done.embedded, done.removed)
        assert said == {2: (2, 2, 0), 3: (3, 1, 0), 1: (1, 0, 2)}[done.chunks]


async def test_what_is_read_is_what_the_index_holds(
    base: Base, retriever: Retriever, collection: str
) -> None:
    documents = {"short": TEXT, "table": long_table(60), "thai": "ราคาเต็นท์อยู่ที่ 190 ยูโร " * 30}
    for name, text in documents.items():
        await retriever.ingest(collection, "t", [Document(name, "T", text)])
    for chunk_tokens in (40, 12, 80):
        reindexing = base.reindexing(Models())
        await reindexing.reindex(collection, f"words-{DIMENSION}", DIMENSION, chunk_tokens)
        for name, text in documents.items():
            found = await retriever.document(collection, "t", name)
            assert [c.text for c in found.chunks] == await indexed(base, collection, "t", name)
            assert found.original is not None
            assert found.original.text == text
        # What is put now has chunks of this size, and is read at once too.
        await retriever.ingest(collection, "t", [Document("new", "T", long_table(chunk_tokens))])
        found = await retriever.document(collection, "t", "new")
        assert [c.text for c in found.chunks] == await indexed(base, collection, "t", "new")


class Letters(HashedWords):
    """Another version's tokenizer."""

    def count(self, text: str) -> int:
        return len(text)


class LettersModels(Models):
    def model(self, name: str) -> HashedWords:
        return Letters()


@pytest.mark.parametrize("changed", ["split otherwise", "written before hashes were kept"])
async def test_what_cannot_be_split_again_is_read_from_the_index(
    base: Base, retriever: Retriever, collection: str, changed: str
) -> None:
    await retriever.ingest(collection, "t", [Document("d", "Tent", long_table(30))])
    before = await indexed(base, collection, "t", "d")
    if changed == "split otherwise":
        retriever = Retriever(base.store, base.registry, LettersModels(), 40, Rules())
    else:
        forgotten = update(tables.copies).values(hash="")
        await base.registry._database.write(lambda it: it.execute(forgotten))
    found = await retriever.document(collection, "t", "d")
    assert [chunk.text for chunk in found.chunks] == before
    assert found.original is not None


async def test_of_a_file_the_index_is_read(retriever: Retriever, collection: str) -> None:
    put = Document("d", "Tent", TEXT, source="s3://docs", url="s3://docs/tent.md")
    await retriever.ingest(collection, "t", [put])
    found = await retriever.document(collection, "t", "d")
    assert [(chunk.heading, chunk.text) for chunk in found.chunks] == CHUNKS
    assert (found.original, found.url) == (None, "s3://docs/tent.md")


async def test_what_is_for_others_is_not_there(
    retriever: Retriever, collection: str, milvus_shows_nothing: None
) -> None:
    await retriever.ingest(collection, "t", [Document("d", "", TEXT, allow=("hr",))], ("hr",))
    for tenant, groups in (("t", ""), ("t", "legal"), ("other", "hr"), ("other", "*")):
        with pytest.raises(NotFound):
            await read(retriever, collection, tenant, groups)
    for groups in ("hr", "legal hr", "*"):
        assert await read(retriever, collection, "t", groups) == CHUNKS


async def test_a_deleted_document_is_gone_while_its_rows_are_not(
    retriever: Retriever, store: MilvusStore, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await retriever.ingest(collection, "t", [Document("d", "", TEXT)])
    reached, go = asyncio.Event(), asyncio.Event()
    remove = store.remove

    async def held(*args: Any) -> None:
        reached.set()
        await go.wait()
        await remove(*args)

    monkeypatch.setattr(store, "remove", held)
    deleting = asyncio.create_task(retriever.delete(collection, "t", "d"))
    await reached.wait()
    with pytest.raises(NotFound):
        await retriever.document(collection, "t", "d")
    go.set()
    assert await deleting == 2


async def test_text_and_chunks_are_of_one_version_whoever_writes_meanwhile(
    base: Base, retriever: Retriever, collection: str
) -> None:
    def version(number: int) -> Document:
        parts = [f"# Part {i}\nversion{number} {i}" for i in range(1 + number % 3)]
        return Document("d", "T", "\n".join(parts))

    over = asyncio.Event()
    seen: set[str] = set()

    async def look() -> None:
        mine = Retriever(base.store, base.registry, Models(), 40, Rules())
        while not over.is_set():
            try:
                found = await mine.document(collection, "t", "d")
            except NotFound:  # it is deleted now and then
                continue
            assert found.original is not None
            put = found.original.text
            assert "\n".join(f"# {c.heading}\n{c.text}" for c in found.chunks) == put
            seen.add(put)

    await retriever.ingest(collection, "t", [version(0)])
    readers = [asyncio.create_task(look()) for _ in range(3)]
    reindexing = base.reindexing(Models())
    for turn in range(1, 13):
        await retriever.ingest(collection, "t", [version(turn)])
        if turn % 4 == 0:
            await reindexing.reindex(collection, f"words-{DIMENSION}", DIMENSION, 30 + turn)
            await base.catalogue.prune(collection, 0)
        if turn % 5 == 0:
            await retriever.delete(collection, "t", "d")
    over.set()
    await asyncio.gather(*readers)
    assert len(seen) > 3
