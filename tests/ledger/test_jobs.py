"""Jobs in the ledger's database, on both kinds: one runner has one at a time."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.errors import NotFound, Overloaded
from serve_app.ledger.database import Database
from serve_app.ledger.jobs import Job, Jobs, Outcome
from serve_app.ledger.sources import Sources


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def made(jobs: Jobs, *addresses: str, most: int = 9) -> Job:
    return await jobs.create(
        tenant="acme",
        collection="c",
        api_key="ann",
        groups=["hr"],
        allow=[],
        source="",
        addresses=addresses or ("a",),
        most=most,
    )


async def test_each_job_is_one_runners(database: Database) -> None:
    clock = Clock()
    jobs = Jobs(database, clock)
    ids = set()
    for _ in range(3):
        ids.add((await made(jobs)).id)
        clock.now += 1
    claimed = await asyncio.gather(*(jobs.claim(f"runner-{i}", 60) for i in range(4)))
    assert {each.id for each in claimed if each} == ids
    assert await jobs.claim("late", 60) is None
    mine = next(each for each in claimed if each)
    assert not await jobs.renew(mine.id, "somebody", 60)
    clock.now += 61
    assert (await jobs.claim("late", 60)) is not None
    assert sum([await jobs.renew(mine.id, f"runner-{i}", 60) for i in range(4)]) <= 1


async def test_addresses_are_counted_as_they_end(database: Database) -> None:
    jobs = Jobs(database)
    job = await made(jobs, "a", "b", "c")
    await jobs.claim("me", 60)
    await jobs.settle(job.id, 0, Outcome(documents=["x", "y"], chunks=5))
    await jobs.settle(job.id, 1, Outcome("its host answers 404"))
    assert await jobs.following(job.id) == (2, "c")
    told = await jobs.get("acme", "c", job.id)
    assert (told.done, told.failed, told.pending) == (1, 1, 1)
    assert (told.documents, told.chunks) == (2, 5)
    assert await jobs.brought(job.id) == {"x", "y"}
    await jobs.end(job.id, "somebody", "done")
    assert (await jobs.get("acme", "c", job.id)).status == "running"
    await jobs.end(job.id, "me", "done", removed=1)
    assert (await jobs.cancel("acme", "c", job.id)).status == "done"
    for tenant, collection in (("other", "c"), ("acme", "d")):
        with pytest.raises(NotFound):
            await jobs.get(tenant, collection, job.id)


async def test_jobs_are_bounded_listed_in_pages_and_forgotten(database: Database) -> None:
    clock = Clock()
    jobs = Jobs(database, clock)
    found: list[str] = []
    for _ in range(3):
        found.insert(0, (await made(jobs)).id)
        clock.now += 1
    with pytest.raises(Overloaded):
        await made(jobs, most=3)
    first = await jobs.page("acme", "c", "", 2)
    rest = await jobs.page("acme", "c", first[-1].id, 2)
    assert [each.id for each in first + rest] == found
    await jobs.cancel("acme", "c", found[0])
    clock.now += 31 * 86_400
    await made(jobs)
    assert found[0] not in [each.id for each in await jobs.page("acme", "c", "", 9)]


async def test_how_a_source_stands(database: Database) -> None:
    clock = Clock()
    sources = Sources(database, clock)
    await sources.failed("one", "c", "away")
    clock.now += 10
    await sources.failed("one", "c", "away still")
    standing = (await sources.all())["one"]
    assert (standing.failures, standing.problem, standing.lag(clock.now)) == (2, "away still", 10)
    await sources.synced("one", "c", {"cursor": "7"})
    clock.now += 5
    standing = await sources.get("one", "c")
    assert (standing.failures, standing.seen, standing.lag(clock.now)) == (0, {"cursor": "7"}, 5)
    assert (await sources.get("one", "another")).seen == {}
