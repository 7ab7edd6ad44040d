"""Milvus may show rows that were removed from it: nobody finds them all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from serve_app.domain import Document, SearchQuery
from serve_app.errors import Unavailable
from serve_app.retrieval import standing
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.lookups import Lookups
from serve_app.retrieval.retriever import DEPTH, Retriever
from serve_app.retrieval.store import MilvusStore

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]

QUERY = SearchQuery("tents in the rain", 4)


async def found(
    retriever: Retriever, collection: str, groups: tuple[str, ...] = ()
) -> list[tuple[str, str]]:
    hits = await retriever.search(collection, "red", QUERY, groups)
    return sorted((hit.document_id, hit.text) for hit in hits)


@pytest.fixture
def removes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milvus says that it has removed rows, and goes on showing them."""

    async def remove(self: MilvusStore, name: str, keys: Sequence[str]) -> None:
        return None

    monkeypatch.setattr(MilvusStore, "remove", remove)


@pytest.mark.usefixtures("removes_nothing")
async def test_what_was_removed_is_not_found_though_milvus_still_shows_it(
    retriever: Retriever, collection: str
) -> None:
    stays = Document("stays", "", "Tents keep the rain out.")
    await retriever.ingest(collection, "red", [Document("goes", "", "Tents and rain."), stays])
    assert len(await found(retriever, collection)) == 2
    await retriever.delete(collection, "red", "goes")
    assert await found(retriever, collection) == [("stays", "Tents keep the rain out.")]


@pytest.mark.usefixtures("removes_nothing")
async def test_rows_that_were_removed_take_nobody_elses_place(
    retriever: Retriever, collection: str
) -> None:
    many = [Document(f"goes-{n}", "", "Tents in the rain.") for n in range(DEPTH + 5)]
    stays = Document("stays", "", "A stove burns gas, petrol or wood.")
    await retriever.ingest(collection, "red", [*many, stays])
    for each in many:
        await retriever.delete(collection, "red", each.id)
    assert await found(retriever, collection) == [("stays", stays.text)]


@pytest.mark.usefixtures("removes_nothing")
async def test_an_older_version_is_found_for_a_moment_and_no_longer(
    retriever: Retriever, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await retriever.ingest(collection, "red", [Document("a", "", "Tents and rain.")])
    await retriever.ingest(collection, "red", [Document("a", "", "Tents and rain, anew.")])
    # What came into force just now need not be seen by every search yet.
    assert ("a", "Tents and rain.") in await found(retriever, collection)
    monkeypatch.setattr(standing, "_LATE_S", -1.0)
    assert await found(retriever, collection) == [("a", "Tents and rain, anew.")]


@pytest.mark.usefixtures("removes_nothing")
async def test_what_is_for_others_now_is_not_found(retriever: Retriever, collection: str) -> None:
    everybody = Document("a", "", "Tents and rain.")
    await retriever.ingest(collection, "red", [everybody])
    board = Document("a", "", "Tents and rain.", allow=("board",))
    await retriever.ingest(collection, "red", [board], ("board",))
    assert await found(retriever, collection) == []
    assert await found(retriever, collection, ("board",))


async def test_searches_go_on_while_the_registry_is_away(
    retriever: Retriever, collection: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await retriever.ingest(collection, "red", [Document("a", "", "Tents and rain.")])

    async def away(*_: Any) -> Any:
        raise Unavailable("the database is away")

    monkeypatch.setattr(Lookups, "standing", away)
    assert await found(retriever, collection) == [("a", "Tents and rain.")]
