"""The registry: who may write a document, and what is in force. On SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from serve_app.errors import ClaimLost, Conflict, NotFound, TooManyCollections
from serve_app.ledger.database import Database
from serve_app.ledger.sources import Sources
from serve_app.retrieval.registry import Registry, tables
from serve_app.retrieval.registry.entries import FOR_EVER, Claim, Copy, Facts, Index


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def registry(address: str, clock: Clock) -> AsyncIterator[Registry]:
    made = Registry(address, clock=clock)
    await made.open()
    yield made
    await made.close()


async def begun(registry: Registry, name: str = "docs", number: int = 1) -> Index:
    """A collection with an index in force, or one more that is being filled."""
    await registry.collections.begin(name, "t")
    index = await registry.collections.add(name, "words-64", 64, 40, sparse=False)
    await registry.collections.made(index, first=number == 1)
    return index


def copy(claim: Claim, chunks: int = 2) -> Copy:
    tenant = claim.before.facts.tenant
    return Copy(claim.key, tenant, claim.version, claim.since, claim.until, chunks, chunks * 3)


async def put(registry: Registry, *given: Facts, token: str = "w", chunks: int = 2) -> list[Claim]:
    """Documents written to every active index, and released."""
    claims = await registry.documents.claim("docs", given, token, 60, "put")
    assert claims is not None
    collection = await registry.collections.get("docs")
    assert collection is not None
    puts = {
        claim.key: (facts, {each.name: copy(claim, chunks) for each in collection.active})
        for claim, facts in zip(claims, given, strict=True)
    }
    done = await registry.documents.commit("docs", token, puts)
    await registry.documents.release("docs", token, done.obsolete)
    return claims


async def test_the_migrations_end_in_the_tables_that_the_code_knows(registry: Registry) -> None:
    def compare(connection: Connection) -> list[object]:
        options = {"compare_type": True, "version_table": "registry_version"}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, tables.metadata))

    assert await registry._database.read(compare) == []


async def test_the_ledger_may_have_the_same_database(registry: Registry, address: str) -> None:
    """As it has where nothing else is said and the ledger's is PostgreSQL."""
    ledger = Database(address)
    await ledger.migrate()
    await Sources(ledger).synced("handbook", "docs", {})
    await begun(registry)
    await put(registry, Facts("t", "one"))
    assert (await Sources(ledger).get("handbook", "docs")).problem == ""
    await ledger.close()


async def test_a_document_has_one_writer_at_a_time(registry: Registry, clock: Clock) -> None:
    await begun(registry)
    one, two = Facts("t", "one"), Facts("t", "two")
    assert await registry.documents.claim("docs", [one], "a", 60, "put")
    # All or none: a second writer holds nothing while it waits.
    assert await registry.documents.claim("docs", [two, one], "b", 60, "put") is None
    assert await registry.documents.entry("docs", "t", "two") is None
    assert await registry.documents.claim("docs", [two], "c", 60, "put")
    clock.now += 61
    (taken,) = await registry.documents.claim("docs", [one], "b", 60, "put") or []
    with pytest.raises(ClaimLost):
        await registry.documents.commit("docs", "a", {one.key: (one, {"docs__1": copy(taken)})})
    await registry.documents.commit("docs", "b", {one.key: (one, {"docs__1": copy(taken)})})


async def test_of_writers_at_once_one_has_the_document(registry: Registry) -> None:
    await begun(registry)
    documents = [Facts("t", f"d{i}") for i in range(5)]
    got = await asyncio.gather(
        *(
            registry.documents.claim("docs", documents[:: 1 if i % 2 else -1], f"w{i}", 60, "put")
            for i in range(8)
        )
    )
    assert sum(each is not None for each in got) == 1


async def test_versions_rise_even_when_a_writer_dies(registry: Registry, clock: Clock) -> None:
    await begun(registry)
    facts = Facts("t", "doc", title="Doc")
    seen = []
    for i in range(2):
        (claim,) = await registry.documents.claim("docs", [facts], f"dies{i}", 60, "put") or []
        seen.append(claim.version)
        clock.now += 61
    for _ in range(2):
        seen += [claim.version for claim in await put(registry, facts)]
        clock.now -= 1000  # a clock that is set back
    assert seen == sorted(set(seen))
    entry = await registry.documents.entry("docs", "t", "doc")
    assert entry is not None
    assert (entry.state, entry.version, entry.facts.title) == ("in", seen[-1], "Doc")


async def test_what_a_commit_replaces_is_named(registry: Registry, clock: Clock) -> None:
    await begun(registry)
    facts = Facts("t", "doc", sha256="1")
    (first,) = await put(registry, facts, chunks=5)
    (claim,) = await registry.documents.claim("docs", [facts], "b", 60, "put") or []
    done = await registry.documents.commit(
        "docs", "b", {facts.key: (facts, {"docs__1": copy(claim)})}
    )
    assert [(each.version, each.chunks) for each in done.obsolete] == [(first.version, 5)]
    await registry.documents.release("docs", "b", done.obsolete)
    assert await registry.documents.behind("docs", "docs__1") == []
    assert await registry.documents.sizes("docs__1") == (1, 2)


async def test_a_writer_that_does_not_know_of_a_new_index_writes_it_too(
    registry: Registry,
) -> None:
    await begun(registry)
    facts = Facts("t", "doc")
    (claim,) = await registry.documents.claim("docs", [facts], "w", 60, "put") or []
    await begun(registry, number=2)
    one = {"docs__1": copy(claim)}
    done = await registry.documents.commit("docs", "w", {facts.key: (facts, one)})
    assert done.behind == ("docs__2",)
    both = {**one, "docs__2": copy(claim, 3)}
    assert not (await registry.documents.commit("docs", "w", {facts.key: (facts, both)})).behind
    assert await registry.collections.switch("docs") == 0


async def test_nothing_is_switched_to_that_lacks_a_document(registry: Registry) -> None:
    await begun(registry)
    old, gone = Facts("t", "old"), Facts("t", "gone")
    await put(registry, old, gone)
    await begun(registry, number=2)
    assert await registry.collections.switch("docs") == 2
    assert (await registry.collections.get("docs")).in_force.name == "docs__1"  # type: ignore[union-attr]
    await delete(registry, gone)
    (behind,) = await registry.documents.behind("docs", "docs__2")
    assert behind.facts.id == "old"
    assert await registry.documents.claim("docs", [old], "c", 60, "copy")
    made = Copy(old.key, "t", behind.version, behind.since, behind.until, 1, 1)
    assert await registry.documents.copied("docs", "c", "docs__2", [made]) == []
    assert await registry.documents.release("docs", "c", []) == []
    assert await registry.collections.switch("docs") == 0
    found = await registry.collections.get("docs")
    assert found is not None
    assert found.in_force is not None
    assert (found.in_force.name, found.filling) == ("docs__2", None)
    assert [each.name for each in found.retired] == ["docs__1"]


async def delete(registry: Registry, facts: Facts) -> None:
    assert await registry.documents.claim("docs", [facts], "d", 60, "delete")
    done = await registry.documents.commit("docs", "d", {}, [facts.key])
    await registry.documents.release("docs", "d", done.obsolete)


async def test_a_deleted_document_is_known_to_be_and_says_nothing_more(
    registry: Registry, clock: Clock
) -> None:
    await begun(registry)
    facts = Facts("t", "doc", title="Secret")
    await put(registry, facts)
    await delete(registry, facts)
    entry = await registry.documents.entry("docs", "t", "doc")
    assert entry is not None
    assert (entry.state, entry.facts.title) == ("deleted", "")
    assert await registry.documents.page("docs", "t") == []
    assert await registry.documents.sizes("docs__1") == (0, 0)
    assert await registry.documents.forget_deleted("docs", clock.now) == 0
    clock.now += 10
    assert await registry.documents.forget_deleted("docs", clock.now) == 1
    assert await registry.documents.entry("docs", "t", "doc") is None


async def test_when_documents_changed_last_is_known(registry: Registry, clock: Clock) -> None:
    await begun(registry)
    assert await registry.documents.changed_at() is None
    for name in ("one", "two"):
        clock.now += 10
        await put(registry, Facts("t", name))
    assert await registry.documents.changed_at() == clock.now


async def test_claims_that_are_over_are_found(registry: Registry, clock: Clock) -> None:
    await begun(registry)
    await registry.documents.claim("docs", [Facts("t", "doc")], "dies", 60, "put")
    assert await registry.documents.abandoned("docs") == {}
    clock.now += 61
    (left,) = (await registry.documents.abandoned("docs"))["docs"]
    assert (left.facts.id, left.intent, left.state) == ("doc", "put", "pending")
    # A mender that dies too leaves word of what was meant.
    await registry.documents.claim("docs", [left.facts], "mends", 60, None)
    clock.now += 61
    (left,) = (await registry.documents.abandoned("docs"))["docs"]
    assert left.intent == "put"


async def test_versions_of_a_series_follow_each_other(registry: Registry) -> None:
    await begun(registry)

    async def spans() -> dict[str, tuple[int, int]]:
        found = await registry.documents.page("docs", "t")
        return {each.facts.id: (each.since, each.until) for each in found}

    def version(year: int) -> Facts:
        return Facts("t", f"v{year}", series="s", time=year)

    await put(registry, version(2024), Facts("t", "alone", time=9999))
    assert await spans() == {"v2024": (0, FOR_EVER), "alone": (0, FOR_EVER)}
    await put(registry, version(2026), version(2025))
    assert await spans() == {
        "alone": (0, FOR_EVER),
        "v2024": (0, 2025),
        "v2025": (2025, 2026),
        "v2026": (2026, FOR_EVER),
    }
    # Rows of those whose time has changed say otherwise: that is found, whoever finds it.
    behind = await registry.documents.behind("docs", "docs__1")
    assert {each.facts.id for each in behind} >= {"v2024"}
    marked = (await registry.documents.abandoned("docs"))["docs"]
    assert {each.facts.id for each in marked} == {each.facts.id for each in behind}
    await delete(registry, version(2024))
    await put(registry, Facts("t", "v2026", series="other", time=2026))
    assert (await spans())["v2025"] == (0, FOR_EVER)


async def test_versions_that_come_at_once_follow_each_other_too(registry: Registry) -> None:
    await begun(registry)
    years = list(range(2001, 2017))
    given = [Facts("t", f"v{year}", series="s", time=year) for year in years]
    await asyncio.gather(*(put(registry, each, token=each.id) for each in given))
    found = await registry.documents.page("docs", "t")
    spans = {each.facts.time: (each.since, each.until) for each in found}
    ends = [*years[1:], FOR_EVER]
    assert spans == dict(zip(years, zip([0, *years[1:]], ends, strict=True), strict=True))


async def test_documents_are_paged_by_the_order_of_their_characters(registry: Registry) -> None:
    await begun(registry)
    names = ["a", "Z", "é", "日本 🎉", "null\x00byte", "\ud800", "~", "a b", "a/b", "a'b\\"]
    await put(registry, *(Facts("t", name) for name in names), Facts("other", "b"))
    listed: list[str] = []
    while page := await registry.documents.page("docs", "t", listed[-1] if listed else "", 3):
        listed += [each.facts.id for each in page]
    assert listed == sorted(names, key=lambda name: name.encode("utf-8", "surrogatepass"))


async def test_a_tenant_makes_so_many_collections(registry: Registry) -> None:
    made = await asyncio.gather(
        *(registry.collections.begin(f"c{i}", "greedy", most=2) for i in range(6)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, TooManyCollections) for each in made) == 4
    assert len(await registry.collections.names("greedy")) == 2


async def test_one_process_has_a_collections_indexes(registry: Registry, clock: Clock) -> None:
    await begun(registry)
    hold = registry.collections.hold
    assert await hold("docs", "a", 60)
    assert await hold("docs", "a", 60)
    assert not await hold("docs", "b", 60)
    clock.now += 61
    assert await hold("docs", "b", 60)
    await registry.collections.let_go("docs", "a")  # not its any more
    assert not await hold("docs", "a", 60)
    with pytest.raises(NotFound):
        await hold("nowhere", "a", 60)


async def test_two_reindexes_at_once_are_refused_by_name(registry: Registry) -> None:
    await begun(registry)
    await begun(registry, number=2)
    third = await registry.collections.add("docs", "words-64", 64, 40, sparse=False)
    with pytest.raises(Conflict, match="docs__2"):
        await registry.collections.made(third)
    assert (await registry.collections.abort("docs")).name == "docs__2"
    with pytest.raises(NotFound):
        await registry.collections.switch("docs")


async def test_old_indexes_may_go_when_their_time_is_over(registry: Registry, clock: Clock) -> None:
    await begun(registry)
    await begun(registry, number=2)
    await registry.collections.switch("docs")
    left = await registry.collections.add("docs", "words-64", 64, 40, sparse=False)
    assert await registry.collections.droppable("docs", 100) == [left]
    clock.now += 101
    names = [each.name for each in await registry.collections.droppable("docs", 100)]
    assert names == ["docs__3", "docs__1"]
    await registry.collections.refill("docs", "docs__1")
    assert await registry.collections.droppable("docs", 100) == [left]


async def test_a_removed_collection_is_gone_to_the_last_row(registry: Registry) -> None:
    await begun(registry)
    facts = Facts("t", "doc")
    await put(registry, facts)
    (claim,) = await registry.documents.claim("docs", [facts], "late", 60, "put") or []
    assert await registry.collections.remove("docs", only_of="another") is None
    removed = await registry.collections.remove("docs", only_of="t")
    assert [each.name for each in removed or []] == ["docs__1"]
    assert await registry.collections.get("docs") is None
    with pytest.raises(NotFound):
        await registry.documents.commit(
            "docs", "late", {facts.key: (facts, {"docs__1": copy(claim)})}
        )
    await registry.collections.forget("docs")
    assert await registry.documents.entry("docs", "t", "doc") is None
    assert await registry.documents.sizes("docs__1") == (0, 0)
