"""Jobs that bring documents in from addresses: what there is to do, and how far it has come.

A job is one gateway's for as long as it says so again and again. A gateway that dies, restarts or
takes new settings leaves it; another one goes on with the first address that is not done.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, update

from serve_app.errors import NotFound, Overloaded
from serve_app.ledger import tables
from serve_app.ledger.database import Database

Status = Literal["queued", "running", "done", "failed", "cancelled"]

_KEPT_S = 30 * 86_400.0  # a job that is over
_OPEN = ("queued", "running")

jobs, urls = tables.jobs.c, tables.job_urls.c


@dataclass(frozen=True, slots=True)
class Job:
    """A job.

    Attributes:
        groups: Of the key that made it: it writes what that may.
        allow: Groups that its documents are for.
        source: Documents of it that the job has not brought are removed at its end; empty: none.
        problem: Why it has failed as a whole.
        pending, done, failed: Addresses.
        documents, chunks: That were brought in.
        removed: Documents of the source that are gone.
    """

    id: str
    tenant: str
    collection: str
    api_key: str
    groups: tuple[str, ...]
    allow: tuple[str, ...]
    source: str
    status: Status
    problem: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    removed: int
    pending: int = 0
    done: int = 0
    failed: int = 0
    documents: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class Remark:
    """What is said of an address of a job."""

    url: str
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an address.

    Attributes:
        problem: Why something of it could not be brought in; empty: nothing.
        left_out: What else is not in its documents, in words, such as pictures.
        documents: Ids of those that were brought in.
    """

    problem: str = ""
    left_out: str = ""
    documents: Sequence[str] = ()
    chunks: int = 0


class Jobs:
    """The jobs in the ledger's database.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    # What those who want documents do

    async def create(
        self,
        *,
        tenant: str,
        collection: str,
        api_key: str,
        groups: Sequence[str],
        allow: Sequence[str],
        source: str,
        addresses: Sequence[str],
        most: int,
    ) -> Job:
        """A new job; those that ended long ago are forgotten.

        Raises:
            Overloaded: The tenant has `most` that are not over.
        """
        now, job_id = self._clock(), uuid.uuid4().hex
        row = {
            "id": job_id,
            "tenant": tenant,
            "collection": collection,
            "api_key": api_key,
            "groups": list(groups),
            "allow": list(allow),
            "source": source,
            "status": "queued",
            "problem": "",
            "created_at": now,
            "lease_until": 0.0,
            "removed": 0,
        }
        todo = [
            {
                "job_id": job_id,
                "number": number,
                "url": url,
                "state": "pending",
                "problem": "",
                "documents": [],
                "chunks": 0,
            }
            for number, url in enumerate(addresses)
        ]

        def work(connection: Connection) -> Job:
            _forget(connection, now - _KEPT_S)
            is_open = and_(jobs.tenant == tenant, jobs.status.in_(_OPEN))
            if connection.execute(select(func.count()).where(is_open)).scalar_one() >= most:
                raise Overloaded(
                    f"{most} jobs of your tenant are not over yet (gateway.ingest.max_jobs): wait "
                    "for one, or cancel one",
                    retry_after_s=30.0,
                )
            connection.execute(insert(tables.jobs).values(row))
            connection.execute(insert(tables.job_urls), todo)
            return _one(connection, jobs.id == job_id)

        return await self._database.write(work)

    async def get(self, tenant: str, collection: str, job_id: str) -> Job:
        """
        Raises:
            NotFound: There is no such job.
        """
        return await self._database.read(lambda it: _one(it, _named(tenant, collection, job_id)))

    async def page(self, tenant: str, collection: str, after: str, limit: int) -> list[Job]:
        """Jobs, the newest first, those behind `after`, at most so many."""

        def work(connection: Connection) -> list[Job]:
            asked = select(tables.jobs).where(jobs.tenant == tenant, jobs.collection == collection)
            if after:
                last = _one(connection, _named(tenant, collection, after))
                older = and_(jobs.created_at == last.created_at, jobs.id < after)
                asked = asked.where(or_(jobs.created_at < last.created_at, older))
            ordered = asked.order_by(jobs.created_at.desc(), jobs.id.desc()).limit(limit)
            return [_job(connection, row) for row in connection.execute(ordered).mappings().all()]

        return await self._database.read(work)

    async def failures(self, job_id: str, limit: int) -> list[Remark]:
        """Addresses that failed, in their order, at most so many."""
        return await self._remarks(job_id, urls.problem, urls.state == "failed", limit)

    async def losses(self, job_id: str, limit: int) -> list[Remark]:
        """Addresses of which something is not in the documents, in their order, at most so many."""
        return await self._remarks(job_id, urls.left_out, urls.left_out != "", limit)

    async def _remarks(
        self, job_id: str, text: ColumnElement[str], which: ColumnElement[bool], limit: int
    ) -> list[Remark]:
        asked = (
            select(urls.url, text)
            .where(urls.job_id == job_id, which)
            .order_by(urls.number)
            .limit(limit)
        )
        return await self._database.read(lambda it: [Remark(*row) for row in it.execute(asked)])

    async def cancel(self, tenant: str, collection: str, job_id: str) -> Job:
        """End a job; one that is over stays as it is.

        Raises:
            NotFound: There is no such job.
        """
        named, now = _named(tenant, collection, job_id), self._clock()
        ended = (
            update(tables.jobs)
            .where(named, jobs.status.in_(_OPEN))
            .values(status="cancelled", ended_at=now, runner=None)
        )

        def work(connection: Connection) -> Job:
            connection.execute(ended)
            return _one(connection, named)

        return await self._database.write(work)

    # What a gateway does that has one

    async def claim(self, runner: str, lease_s: float) -> Job | None:
        """The oldest job that nobody has, which is the runner's now."""
        now = self._clock()
        free = or_(jobs.status == "queued", and_(jobs.status == "running", jobs.lease_until < now))

        def work(connection: Connection) -> Job | None:
            asked = select(jobs.id).where(free).order_by(jobs.created_at, jobs.id).limit(1)
            # Locked rows are others' already (PostgreSQL; SQLite has one writer at a time).
            found = connection.execute(asked.with_for_update(skip_locked=True)).scalar_one_or_none()
            if found is None:
                return None
            started = func.coalesce(jobs.started_at, now)
            connection.execute(
                update(tables.jobs)
                .where(jobs.id == found)
                .values(
                    status="running", runner=runner, lease_until=now + lease_s, started_at=started
                )
            )
            return _one(connection, jobs.id == found)

        return await self._database.write(work)

    async def renew(self, job_id: str, runner: str, lease_s: float) -> bool:
        """Keep a job for so long from now on; whether it is still the runner's."""
        kept = (
            update(tables.jobs)
            .where(_held(job_id, runner))
            .values(lease_until=self._clock() + lease_s)
        )
        return await self._database.write(lambda it: it.execute(kept).rowcount > 0)

    async def let_go(self, job_id: str, runner: str) -> None:
        """Leave a job to the next one who asks."""
        left = update(tables.jobs).where(_held(job_id, runner)).values(lease_until=0.0)
        await self._database.write(lambda it: it.execute(left))

    async def following(self, job_id: str) -> tuple[int, str] | None:
        """Number and text of the first address that is not done."""
        asked = (
            select(urls.number, urls.url)
            .where(urls.job_id == job_id, urls.state == "pending")
            .order_by(urls.number)
            .limit(1)
        )
        row = await self._database.read(lambda it: it.execute(asked).one_or_none())
        return (row.number, row.url) if row else None

    async def settle(self, job_id: str, number: int, outcome: Outcome) -> None:
        """An address is done."""
        done = (
            update(tables.job_urls)
            .where(urls.job_id == job_id, urls.number == number)
            .values(
                state="failed" if outcome.problem else "in",
                problem=outcome.problem,
                left_out=outcome.left_out,
                documents=list(outcome.documents),
                chunks=outcome.chunks,
            )
        )
        await self._database.write(lambda it: it.execute(done))

    async def brought(self, job_id: str) -> set[str]:
        """Ids of all documents of a job."""
        asked = select(urls.documents).where(urls.job_id == job_id)
        return await self._database.read(
            lambda it: {name for row in it.execute(asked).scalars() for name in row}
        )

    async def end(
        self, job_id: str, runner: str, status: Status, problem: str = "", removed: int = 0
    ) -> None:
        """A job is over, unless it is not the runner's any more."""
        over = (
            update(tables.jobs)
            .where(_held(job_id, runner))
            .values(
                status=status,
                problem=problem,
                removed=removed,
                ended_at=self._clock(),
                runner=None,
            )
        )
        await self._database.write(lambda it: it.execute(over))


def _named(tenant: str, collection: str, job_id: str) -> ColumnElement[bool]:
    return and_(jobs.tenant == tenant, jobs.collection == collection, jobs.id == job_id)


def _held(job_id: str, runner: str) -> ColumnElement[bool]:
    return and_(jobs.id == job_id, jobs.runner == runner, jobs.status == "running")


def _one(connection: Connection, which: ColumnElement[bool]) -> Job:
    row = connection.execute(select(tables.jobs).where(which)).mappings().one_or_none()
    if row is None:
        raise NotFound("there is no such job")
    return _job(connection, row)


def _job(connection: Connection, row: Any) -> Job:
    counted = connection.execute(
        select(urls.state, func.count(), func.sum(urls.chunks))
        .where(urls.job_id == row["id"])
        .group_by(urls.state)
    ).all()
    count = {state: number for state, number, _ in counted}
    size = func.json_array_length(urls.documents)
    documents = select(func.sum(size)).where(urls.job_id == row["id"])
    return Job(
        id=row["id"],
        tenant=row["tenant"],
        collection=row["collection"],
        api_key=row["api_key"],
        groups=tuple(row["groups"]),
        allow=tuple(row["allow"]),
        source=row["source"],
        status=row["status"],
        problem=row["problem"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        removed=row["removed"],
        pending=count.get("pending", 0),
        done=count.get("in", 0),
        failed=count.get("failed", 0),
        documents=int(connection.execute(documents).scalar_one() or 0),
        chunks=sum(int(chunks) for _, _, chunks in counted),
    )


def _forget(connection: Connection, before: float) -> None:
    old = select(jobs.id).where(~jobs.status.in_(_OPEN), jobs.ended_at < before)
    connection.execute(delete(tables.job_urls).where(urls.job_id.in_(old)))
    connection.execute(delete(tables.jobs).where(~jobs.status.in_(_OPEN), jobs.ended_at < before))
