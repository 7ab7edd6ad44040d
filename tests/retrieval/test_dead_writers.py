"""Writers and menders that die in the middle: what they leave is finished by others. On both
Milvuses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from loadtest.mortal import Killed, mortal
from loadtest.words import Models
from serve_app.domain import Document
from serve_app.errors import NotFound
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.index import Stored
from serve_app.retrieval.registry.entries import Index, index_name
from serve_app.retrieval.retriever import Retriever, Rules
from tests.retrieval.bases import Base, doc, is_sound, reindex, replica, texts

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]


@contextlib.contextmanager
def later(base: Base, seconds: float = 60) -> Iterator[None]:
    """So much later, when nobody waits for the dead any more."""
    documents, collections = base.registry.documents, base.registry.collections
    clock = documents._clock
    documents._clock = collections._clock = lambda: clock() + seconds
    try:
        yield
    finally:
        documents._clock = collections._clock = clock


@pytest.mark.parametrize("calls", range(1, 12))
async def test_a_writer_that_dies_leaves_the_old_version_or_the_new(
    base: Base, collection: str, calls: int
) -> None:
    name = f"doc{calls}"
    await replica(base).ingest(collection, "t", [doc(name, "old one", "old two")])
    dying = Retriever(*mortal(base.store, base.registry, calls), Models(), 40, Rules())
    with contextlib.suppress(Killed):
        await dying.ingest(collection, "t", [doc(name, "new")])
    with later(base):
        await replica(base).mend()
    assert await texts(base, collection, name) in (["old one", "old two"], ["new"])
    assert await is_sound(base, collection)


async def test_rows_half_rewritten_by_the_dead_are_written_again(
    base: Base, collection: str
) -> None:
    def version(name: str, year: int) -> Document:
        return doc(name, name, series="s", effective_from=f"{year}-01-01")

    for calls in range(6, 26):
        tenant = f"t{calls}"
        await replica(base).ingest(collection, tenant, [version("new", 2020)])
        dying = Retriever(*mortal(base.store, base.registry, calls), Models(), 40, Rules())
        with contextlib.suppress(Killed):
            await dying.ingest(collection, tenant, [version("old", 2010)])  # puts "new" off
        with later(base):
            with contextlib.suppress(NotFound):
                await replica(base).delete(collection, tenant, "old")  # and back again
            await replica(base).mend()
        assert await is_sound(base, collection), calls


async def test_a_reindex_finishes_what_dead_writers_have_left(base: Base, collection: str) -> None:
    points = range(6, 20)
    for calls in points:
        await replica(base).ingest(collection, f"t{calls}", [doc("a", "old")])
    await reindex(base, collection)  # the index before it is kept, and holds the old versions too
    for calls in points:
        dying = Retriever(*mortal(base.store, base.registry, calls), Models(), 40, Rules())
        with contextlib.suppress(Killed):
            await dying.ingest(collection, f"t{calls}", [doc("a", "new")])
    with later(base):
        await reindex(base, collection)
        await replica(base).mend()
    assert await is_sound(base, collection)


@pytest.mark.parametrize("calls", [5, 6])
async def test_an_index_half_dropped_is_in_nobodys_way(
    base: Base, collection: str, calls: int
) -> None:
    def dying(calls: int) -> Base:
        return Base(*mortal(base.store, base.registry, calls))

    name = f"{collection}{calls}"
    await replica(base).ingest(name, "t", [doc("a", "one two three four five six")])
    with contextlib.suppress(Killed):
        await reindex(dying(15), name)
    with later(base):
        with contextlib.suppress(Killed):
            await dying(calls).reindexing(Models()).abort(name)
        with contextlib.suppress(Killed):
            await replica(dying(8)).ingest(name, "t", [doc("b", "text")])
    with later(base, 120):
        await replica(base).mend()
        assert await base.registry.documents.abandoned(name) == {}
        await base.catalogue.prune(name, 0.0)
    assert [i.name for i, _ in await base.store.made(name)] == [index_name(name, 1)]
    assert await is_sound(base, name)


@pytest.mark.timeout(25)  # nobody waits for a collection that is no more
async def test_writers_finish_a_removal_whose_process_died_and_begin_anew(
    base: Base, collection: str
) -> None:
    await replica(base).ingest(collection, "t", [doc("old", "text")])
    with contextlib.suppress(Killed):
        await Catalogue(*mortal(base.store, base.registry, 4)).remove(collection)
    assert await base.registry.collections.is_removing(collection)
    names = [f"d{i}" for i in range(5)]
    with later(base):
        pruned, *put = await asyncio.gather(
            base.catalogue.prune(collection, 0.0),
            *(replica(base).ingest(collection, "t", [doc(name, "text")]) for name in names),
            return_exceptions=True,
        )
    # Whoever comes after the writers finds the new collection, and nothing to drop.
    assert isinstance(pruned, NotFound) or pruned == []
    assert [each for each in put if isinstance(each, BaseException)] == []
    page = await replica(base).documents(collection, "t")
    assert [each["id"] for each in page.documents] == names


class HeldUp:
    """A store whose next write comes late: something else happens first."""

    def __init__(self, base: Base, index: str, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._base = base
        self._index = index
        self._meanwhile: Callable[[], Awaitable[object]] | None = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base.store, name)

    async def upsert(self, index: Index, rows: Sequence[Stored]) -> None:
        if self._meanwhile and index.name == self._index:
            meanwhile, self._meanwhile = self._meanwhile, None
            await meanwhile()
        await self._base.store.upsert(index, rows)


async def test_a_reindex_that_is_held_up_for_longer_than_it_may_brings_nothing_back(
    base: Base, collection: str
) -> None:
    for name in ("stays", "goes", "changes"):
        await replica(base).ingest(collection, "t", [doc(name, "old")])

    async def meanwhile() -> None:
        with later(base):
            await replica(base).delete(collection, "t", "goes")
            await replica(base).ingest(collection, "t", [doc("changes", "new")])

    slow: Any = HeldUp(base, index_name(collection, 2), meanwhile)
    await reindex(Base(slow, base.registry), collection)
    with later(base, 120):
        await replica(base).mend()
        assert await is_sound(base, collection)
    with pytest.raises(NotFound):
        await replica(base).document(collection, "t", "goes")
    assert await texts(base, collection, "changes") == ["new"]
