"""Nothing is lost, garbled or resurrected: races, changes of index, repairs. On both Milvuses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pymilvus import DataType, MilvusClient

from loadtest.words import DIMENSION, HashedWords, Models
from serve_app.domain import Document, SearchQuery
from serve_app.errors import Conflict, KnowledgeRefused, NotFound
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Facts, index_name, milvus_name
from serve_app.retrieval.store import MilvusStore
from serve_app.retrieval.writing import Writer
from tests.retrieval.bases import MODEL, Base, content, doc, is_sound, reindex, replica, texts

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]


async def test_first_writes_at_once_make_one_index_and_lose_nothing(
    base: Base, collection: str
) -> None:
    names = [f"d{i}" for i in range(5)]
    await asyncio.gather(
        *(replica(base).ingest(collection, "t", [doc(name, "text")]) for name in names)
    )
    page = await replica(base).documents(collection, "t")
    assert [each["id"] for each in page.documents] == names
    assert [index.name for index, _ in await base.store.made(collection)] == [
        index_name(collection, 1)
    ]
    assert await is_sound(base, collection)


async def test_writers_of_one_document_leave_what_one_of_them_wrote(
    base: Base, collection: str
) -> None:
    wanted = [[f"writer {i} part {j}" for j in range(1 + i % 3)] for i in range(8)]
    for _ in range(3):
        await asyncio.gather(
            *(replica(base).ingest(collection, "t", [doc("same", *each)]) for each in wanted)
        )
        assert await texts(base, collection, "same") in wanted
    assert await is_sound(base, collection)


class Held(HashedWords):
    """Embeds when it is told to; says when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        self._loop.call_soon_threadsafe(self.asked.set)
        asyncio.run_coroutine_threadsafe(self.go.wait(), self._loop).result(30)
        return super().__call__(texts)


class HeldModels(Models):
    def __init__(self) -> None:
        super().__init__()
        self.held = Held()

    def model(self, name: str) -> HashedWords:
        return self.held


async def test_what_many_write_at_once_is_there_at_once(base: Base, collection: str) -> None:
    said = [f"part {i}" for i in range(20)]

    async def work(number: int) -> None:
        for name in (f"d{number}-{turn}" for turn in range(4)):
            await replica(base).ingest(collection, "t", [doc(name, *said)])
            assert await texts(base, collection, name) == said
            if number % 2:
                await replica(base).delete(collection, "t", name)

    await asyncio.gather(*map(work, range(8)))
    assert len(await content(base, collection)) == 4 * 4 * len(said)
    assert await is_sound(base, collection)


async def test_a_reindex_keeps_what_is_deleted_and_updated_meanwhile(
    base: Base, collection: str
) -> None:
    writer = replica(base)
    for name in ("erased", "shrunk", "grown", "kept"):
        await writer.ingest(collection, "t", [doc(name, "first part of it", "remove me please")])
    models = HeldModels()
    run = asyncio.create_task(base.reindexing(models).reindex(collection, MODEL, DIMENSION, 3))
    await models.held.asked.wait()  # all four have been read by now, as they were
    await writer.delete(collection, "t", "erased")
    await writer.ingest(collection, "t", [doc("shrunk", "all of it")])
    await writer.ingest(collection, "t", [doc("grown", "one", "two", "three")])
    await writer.ingest(collection, "t", [doc("late", "new")])
    models.held.go.set()
    made, _ = await run
    assert (await base.catalogue.index(collection)).name == made.name
    found = {name for name, _, _ in await content(base, collection)}
    assert found == {"shrunk", "grown", "kept", "late"}
    assert " ".join(await texts(base, collection, "shrunk")) == "all of it"
    assert await texts(base, collection, "grown") == ["one", "two", "three"]
    with pytest.raises(NotFound):
        await texts(base, collection, "erased")
    assert await is_sound(base, collection)


async def test_no_search_is_empty_while_the_index_is_changed(base: Base, collection: str) -> None:
    words = "tent boot rope stove".split()
    await replica(base).ingest(collection, "t", [doc(each, f"{each} for all") for each in words])
    stop = asyncio.Event()

    async def client(word: str) -> int:
        searches = 0
        retriever = replica(base)
        while not stop.is_set():
            found = await retriever.search(collection, "t", SearchQuery(word, 4, "dense"))
            assert len(found) == 4
            searches += 1
        return searches

    clients = [asyncio.create_task(client(each)) for each in words]
    for _ in range(2):
        await reindex(base, collection)
    await base.reindexing(Models()).rollback(collection)
    stop.set()
    assert min(await asyncio.gather(*clients)) > 1


async def test_going_back_keeps_what_was_written_since(base: Base, collection: str) -> None:
    writer = replica(base)
    for name in ("erased", "changed", "kept"):
        await writer.ingest(collection, "t", [doc(name, f"the old text of {name}")])
    first = (await base.catalogue.index(collection)).name
    second = await reindex(base, collection)
    await writer.delete(collection, "t", "erased")
    await writer.ingest(collection, "t", [doc("changed", "the new text")])
    await writer.ingest(collection, "t", [doc("late", "late")])
    # What is deleted is gone from the index that is kept for going back too.
    assert await base.store.places(first, [("t", "erased"), ("t", "changed")]) == []
    back, done = await base.reindexing(Models()).rollback(collection)
    assert (back.name, done.documents) == (first, 2)
    names = {name for name, _, _ in await content(base, collection)}
    assert names == {"changed", "late", "kept"}
    assert await texts(base, collection, "changed") == ["the new text"]
    with pytest.raises(NotFound):
        await base.reindexing(Models()).rollback(collection)
    assert await is_sound(base, collection)
    # The one that was left is dropped when its time is over, and no other.
    assert await base.catalogue.prune(collection, 3600) == []
    assert await base.catalogue.prune(collection, 0) == [second]
    assert [index.name for index, _ in await base.store.made(collection)] == [first]


async def test_a_reindex_waits_stops_and_is_finished_by_the_same_command(
    base: Base, collection: str
) -> None:
    await replica(base).ingest(collection, "t", [doc(f"d{i}", "some text") for i in range(3)])
    models = HeldModels()
    run = asyncio.create_task(base.reindexing(models).reindex(collection, MODEL, DIMENSION, 3))
    await models.held.asked.wait()
    with pytest.raises(Conflict, match="filled"):
        await base.reindexing(Models(), 0.1).reindex(collection, MODEL, DIMENSION, 9)
    await base.registry.collections.pause(collection, paused=True)
    assert (await base.reindexing(Models()).abort(collection)).name == index_name(collection, 2)
    models.held.go.set()
    with pytest.raises(Conflict, match="told to stop"):
        await run
    assert [i.name for i, _ in await base.store.made(collection)] == [index_name(collection, 1)]
    assert await reindex(base, collection) == index_name(collection, 3)
    assert await is_sound(base, collection)


async def test_an_index_that_is_dropped_meanwhile_need_not_be_swept(
    base: Base, collection: str
) -> None:
    await replica(base).ingest(collection, "t", [doc("a", "text")])
    await reindex(base, collection)
    seen = await base.catalogue.collection(collection)
    assert await base.catalogue.prune(collection, 0) == [index_name(collection, 1)]
    assert await Writer(base.store, base.registry).sweep(seen, [Facts("t", "a")]) == 0
    assert await texts(base, collection, "a") == ["text"]


async def test_a_check_finds_and_mends_what_does_not_agree(base: Base, collection: str) -> None:
    await replica(base).ingest(collection, "t", [doc(f"d{i}", "one", "two") for i in range(6)])
    second = await reindex(base, collection, 40)
    places = {(e.document_id, e.ordinal): e for e in await base.store.between(second, "", "")}
    (stored,) = await base.store.stored(
        await base.catalogue.index(collection), [places["d1", 0].id]
    )
    index = await base.catalogue.index(collection)
    await base.store.remove(second, [places["d0", 1].id])
    await base.store.upsert(
        index, [stored.__class__(stored.row, 7, 0, stored.until, stored.vector)]
    )
    ghost = stored.row.__class__("t", "ghost", 0, "Title", "", "boo")
    await base.store.upsert(index, [stored.__class__(ghost, 7, 0, stored.until, stored.vector)])
    await base.store.upsert(
        index, [stored.__class__(stored.row, stored.version, 5, 6, stored.vector)]
    )
    report = await base.check(Models(), collection)
    assert {(each.kind, each.document) for each in report.findings} == {
        ("missing", "d0"),
        ("duplicate", "d1"),
        ("outdated", "d1"),
        ("orphan", "ghost"),
    }
    mended = await base.check(Models(), collection, repair=True)
    assert mended.counts == report.counts
    # d0 was whole in the index before this one.
    assert mended.lost == []
    assert await is_sound(base, collection)
    assert await texts(base, collection, "d0") == ["one", "two"]
    await base.store.remove(second, [places["d2", 0].id])
    await base.catalogue.prune(collection, 0)
    assert (await base.check(Models(), collection, repair=True)).lost == ["d2"]
    with pytest.raises(NotFound):
        await texts(base, collection, "d2")
    assert await is_sound(base, collection)


async def test_a_collection_of_before_the_registry_is_carried_over(
    base: Base, uri: str, collection: str
) -> None:
    await asyncio.to_thread(first_layout, base.store, collection)
    models = Models()
    retriever = replica(base, models)
    page = await retriever.documents(collection, "t")
    assert [each["id"] for each in page.documents] == ["a", "b"]
    assert await texts(base, collection, "a") == ["a one", "a two"]
    hits = await retriever.search(collection, "t", SearchQuery("b one", 5, "dense"))
    assert hits[0].document_id == "b"
    assert models.model(MODEL).embedded == ["b one"]  # the query alone
    await retriever.ingest(collection, "t", [doc("a", "new")])
    assert await texts(base, collection, "a") == ["new"]
    assert [i.name for i, _ in await base.store.made(collection)] == [index_name(collection, 5)]
    assert await is_sound(base, collection)


def first_layout(store: MilvusStore, collection: str) -> None:
    """A collection as version 0.1 made it."""
    fields: list[tuple[str, DataType, dict[str, Any]]] = [
        ("id", DataType.VARCHAR, {"is_primary": True, "max_length": 512}),
        *(
            (n, DataType.VARCHAR, {"max_length": 2048})
            for n in (
                "tenant",
                "document_id",
                "title",
                "heading",
                "text",
                "as_of",
                "series",
                "source",
            )
        ),
        ("stamp", DataType.VARCHAR, {"max_length": 32}),
        *((n, DataType.INT64, {}) for n in ("ordinal", "time", "tokens", "written")),
        ("metadata", DataType.JSON, {}),
        ("dense", DataType.FLOAT_VECTOR, {"dim": DIMENSION}),
    ]
    schema = MilvusClient.create_schema(enable_dynamic_field=False)
    for name, kind, more in fields:
        schema.add_field(name, kind, **more)
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("dense", index_type="AUTOINDEX", metric_type="IP")
    properties = {"trivium.model": MODEL, "trivium.chunk_tokens": "40", "trivium.owner": "t"}
    rows: list[dict[str, Any]] = [
        {
            **dict.fromkeys(("title", "heading", "as_of", "series", "source", "stamp"), ""),
            "id": f"{i:02x}{name}{i}",
            "tenant": "t",
            "document_id": name,
            "ordinal": i,
            "text": f"{name} {word}",
            "time": 0,
            "tokens": 2,
            "written": 1,
            "metadata": {},
            "dense": HashedWords()([f"{name} {word}"])[0],
        }
        for name in ("a", "b")
        for i, word in enumerate(("one", "two"))
    ]
    with store._milvus.blocking() as client:
        made = index_name(collection, 4)
        client.create_collection(made, schema=schema, index_params=indexes, properties=properties)
        client.insert(made, rows)
        client.create_alias(made, milvus_name(collection))
        client.load_collection(made)


async def test_a_registry_that_was_lost_is_made_again(
    base: Base, collection: str, tmp_path: Path
) -> None:
    await replica(base).ingest(collection, "t", [doc("a", "one", "two"), doc("b", "three")])
    again = Base(base.store, Registry(str(tmp_path / "registry.db")))
    assert await texts(again, collection, "a") == ["one", "two"]
    await replica(again).delete(collection, "t", "b")
    page = await replica(again).documents(collection, "t")
    assert [each["id"] for each in page.documents] == ["a"]
    assert await is_sound(again, collection)
    await again.registry.close()


async def test_of_many_versions_the_one_in_force_is_found(base: Base, collection: str) -> None:
    def version(year: int) -> Document:
        when = f"{year}-01-01"
        return doc(f"v{year}", f"hotel limit of {year}", series="travel", effective_from=when)

    retriever = replica(base)
    years = [*range(1991, 2021), 2099]
    await retriever.ingest(collection, "t", [version(year) for year in reversed(years)])
    await retriever.ingest(collection, "t", [doc("other", "boots")])
    found = await retriever.search(collection, "t", SearchQuery("hotel limit of 1995", 4))
    assert [each.document_id for each in found] == ["v2020", "other"]
    await retriever.delete(collection, "t", "v2020")
    found = await retriever.search(collection, "t", SearchQuery("hotel limit of 1995", 4))
    assert [each.document_id for each in found] == ["v2019", "other"]
    whole = await retriever.whole(collection, "t", 1000)
    assert [each.document_id for each in whole or []] == ["other", "v2019"]
    assert await is_sound(base, collection)


async def test_versions_that_change_at_once_leave_one_in_force(base: Base, collection: str) -> None:
    def version(name: str, year: int) -> Document:
        return doc(name, f"limit of {name}", series="s", effective_from=f"{year}-01-01")

    retriever = replica(base)
    await retriever.ingest(collection, "t", [version(f"v{i}", 2000 + i) for i in range(6)])
    for turn in range(3):
        await asyncio.gather(
            *(
                replica(base).ingest(collection, "t", [version(f"v{i}", 2000 + (i + turn) % 6)])
                for i in range(6)
            ),
        )
        found = await retriever.search(collection, "t", SearchQuery("limit", 9))
        assert [each.document_id for each in found] == [f"v{(5 - turn) % 6}"]
        assert await is_sound(base, collection)


async def test_how_large_a_base_is_takes_no_look_at_milvus(
    base: Base, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica(base).ingest(collection, "t", [doc(f"d{i}", "some words") for i in range(9)])

    async def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("rows were read")

    monkeypatch.setattr(base.store._client, "query", refuse)
    assert await replica(base).whole(collection, "t", 8) is None


async def test_a_tenants_collection_goes_with_its_last_document(
    base: Base, collection: str
) -> None:
    retriever = replica(base)
    for tenant in ("owner", "guest"):
        await retriever.ingest(collection, tenant, [doc("a", "one"), doc("b", "two")])
    with pytest.raises(NotFound):
        await retriever.delete_collection(collection, "stranger")
    assert await retriever.delete_collection(collection, "owner") == 2
    assert await texts(base, collection, "a", "guest") == ["one"]
    assert await retriever.delete_collection(collection, "guest") == 2
    assert await retriever.delete_collection(collection, "owner") == 0
    for tenant in ("owner", "guest"):
        with pytest.raises(NotFound):
            await replica(base).documents(collection, tenant)
    assert await base.store.made(collection) == []
    await retriever.ingest(collection, "guest", [doc("a", "again")])
    assert await texts(base, collection, "a", "guest") == ["again"]


async def test_what_milvus_refuses_is_not_said_to_be_away(base: Base, collection: str) -> None:
    await replica(base).ingest(collection, "t", [doc("a", "one")])
    name = (await base.catalogue.index(collection)).name
    with pytest.raises(KnowledgeRefused) as raised:
        await base.store._query(name, "no such field ===", ["id"], "Strong")
    assert raised.value.status == 400
    assert "not reachable" not in raised.value.message


async def test_a_document_that_is_as_it_was_is_not_written(base: Base, collection: str) -> None:
    models = Models()
    retriever = replica(base, models)
    await retriever.ingest(collection, "t", [doc("a", "one"), doc("b", "two")])
    before = await base.registry.documents.entry(collection, "t", "a")
    models.model(MODEL).embedded.clear()
    report = await retriever.ingest(collection, "t", [doc("a", "one"), doc("b", "changed")])
    assert (report.documents, report.chunks, report.embedded) == (2, 2, 1)
    assert await base.registry.documents.entry(collection, "t", "a") == before
    assert [text.split()[-1] for text in models.model(MODEL).embedded] == ["changed"]
    assert Facts("t", "a").key == before.key if before else False
