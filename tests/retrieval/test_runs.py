"""What a bulk run asks the registry about a source. On SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest
from sqlalchemy import Connection, Update, update

from serve_app.retrieval.bulk import lease
from serve_app.retrieval.registry import Registry, tables
from serve_app.retrieval.registry.entries import Facts, Seen
from serve_app.retrieval.registry.meetings import Met
from serve_app.retrieval.registry.runs import Ended, FileState

OF = ("docs", "t", "/kb")
STARTED = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = STARTED

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


async def end(registry: Registry, run: str, url: str, state: FileState, sha256: str = "x") -> None:
    await registry.runs.end("docs", "t", run, [Ended("/kb", url, sha256, state)])


async def meet(
    registry: Registry, run: str, *wanted: Facts, last: bool = False, dry: bool = False
) -> list[Met]:
    return await registry.meetings.meet("docs", "docs__1", wanted, run, STARTED, last=last, dry=dry)


def facts(name: str, url: str, sha256: str = "1", source: str = "/kb") -> Facts:
    return Facts("t", name, source=source, url=url, sha256=sha256)


async def put(registry: Registry, *given: Facts) -> None:
    """Documents in force, in no index."""
    claims = await registry.documents.claim("docs", given, "w", 60, "put")
    assert claims
    for each in given:
        about = {"url": each.url, "source": each.source, "sha256": each.sha256, "run": each.run}
        said = (
            update(tables.documents)
            .where(tables.documents.c.key == each.key)
            .values(state="in", version=1, claim=None, claimed_until=None, intent="", **about)
        )
        await registry._database.write(partial(_execute, said))


def _execute(statement: Update, connection: Connection) -> None:
    connection.execute(statement)


async def test_only_what_is_in_as_it_is_listed_need_not_be_read(registry: Registry) -> None:
    runs = registry.runs
    seen = [Seen("a", 1, 5.0), Seen("b", 1, etag="x"), Seen("c", 1), Seen("d", 1, 5.0)]
    seen.append(Seen("e", 1, 5.0))
    assert [(e.same, e.known) for e in await runs.listed(*OF, seen)] == [(False, False)] * 5
    await runs.begin(*OF, "r1", seen)
    for url, state in (("a", "in"), ("b", "in"), ("c", "in"), ("d", "failed")):
        await end(registry, "r1", url, state)  # type: ignore[arg-type]
    # What was not finished, what failed, and what cannot be told is read again.
    told = await runs.listed(*OF, seen)
    assert [e.same for e in told] == [True, True, False, False, False]
    assert [e.sha256 for e in told] == ["x", "x", "x", "", ""]
    moved = [Seen("a", 1, 6.0), Seen("b", 1, etag="y")]
    assert [e.same for e in await runs.listed(*OF, moved)] == [False, False]


async def test_what_no_run_has_seen_is_gone(registry: Registry, clock: Clock) -> None:
    runs = registry.runs
    await runs.begin(*OF, "r1", [Seen("a", 1, 5.0), Seen("b", 1, 5.0), Seen("c", 1, 5.0)])
    clock.now += 10
    started = clock.now
    await runs.listed(*OF, [Seen("b", 1, 9.0)])
    assert await runs.gone(*OF, started, "", 1) == ["a"]
    assert await runs.gone(*OF, started, "a", 10) == ["c"]
    await runs.forget(*OF, ["a", "c"])
    assert await runs.gone(*OF, started, "", 10) == []


@pytest.mark.parametrize("order", [("m", "z"), ("z", "m")])
async def test_of_two_new_files_with_one_document_the_first_by_name_keeps_it(
    registry: Registry, order: Sequence[str]
) -> None:
    await registry.runs.begin(*OF, "r1", [Seen("m", 1, 5.0), Seen("z", 1, 5.0)])
    (first,) = await meet(registry, "r1", facts("doc", order[0]))
    assert first.verdict == "new"
    (second,) = await meet(registry, "r1", facts("doc", order[1]))
    if order[1] == "z":
        assert second == Met("twice", "m")
    else:
        assert second == Met("later", "z")
        (decided,) = await meet(registry, "r1", facts("doc", "m"), last=True)
        assert decided == Met("new", "z")


async def test_workers_that_meet_one_new_document_at_once_do_not_both_put_it(
    registry: Registry,
) -> None:
    urls = [f"f{number}" for number in range(6)]
    await registry.runs.begin(*OF, "r1", [Seen(url, 1, 5.0) for url in urls])
    found = await asyncio.gather(*(meet(registry, "r1", facts("doc", url)) for url in urls))
    assert sum(one.verdict == "new" for (one,) in found) == 1


async def test_document_that_moves_waits_for_the_file_it_leaves(registry: Registry) -> None:
    await put(registry, facts("doc", "a"))
    await registry.runs.begin(*OF, "r2", [Seen("a", 1, 6.0), Seen("b", 1, 5.0)])
    (one,) = await meet(registry, "r2", facts("doc", "b"))
    assert one.verdict == "later"
    (one,) = await meet(registry, "r2", facts("doc", "b"), last=True)
    assert (one.verdict, one.url) == ("same", "")
    entry = await registry.documents.entry("docs", "t", "doc")
    assert entry is not None
    assert entry.facts.url == "b"


async def test_document_of_a_file_that_is_gone_is_anybodys(
    registry: Registry, clock: Clock
) -> None:
    clock.now -= 10
    await registry.runs.begin(*OF, "r1", [Seen("a", 1, 6.0)])
    await put(registry, facts("doc", "a"))
    clock.now += 10
    await registry.runs.begin(*OF, "r2", [Seen("b", 1, 5.0)])
    (one,) = await meet(registry, "r2", facts("doc", "b", sha256="2"))
    assert one.verdict == "new"


async def test_document_of_another_source_is_left_to_it(registry: Registry) -> None:
    await put(registry, facts("doc", "/it/a", source="/it"), facts("http", "", source=""))
    one, other = await meet(registry, "r1", facts("doc", "/kb/a"), facts("http", "/kb/b"))
    assert (one.verdict, one.source) == ("elsewhere", "/it")
    assert other.verdict == "same"


async def test_dry_run_notes_nothing(registry: Registry) -> None:
    (one,) = await meet(registry, "r1", facts("doc", "a"), dry=True)
    assert one.verdict == "new"
    assert await registry.documents.states("docs") == {}


async def test_source_is_one_runs_at_a_time(registry: Registry, clock: Clock) -> None:
    runs = registry.runs
    assert await runs.hold(*OF, "one", 20)
    assert not await runs.hold(*OF, "two", 20)
    assert await runs.hold("docs", "t", "/other", "two", 20)
    assert await runs.hold(*OF, "two", 20, dead=await runs.holder(*OF))
    clock.now += 21
    assert await runs.hold(*OF, "three", 20)
    await runs.let_go(*OF, "two")
    assert not await runs.hold(*OF, "four", 20)
    await runs.let_go(*OF, "three")
    assert await runs.hold(*OF, "four", 20)


def test_run_of_a_process_that_lives_is_not_over() -> None:
    assert not lease.is_over(lease.name())
    assert not lease.is_over("0123456789abcdef")
