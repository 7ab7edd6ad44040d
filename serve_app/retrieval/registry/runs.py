"""The files of sources, as bulk runs list and read them.

A file goes from `pending` (about to be read) by `read` (its documents are in; what it no longer
holds may still be) to `in`; or to `failed`, with the reason. Only what is `in` need not be read
again, so a run that was killed is finished by another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)

from serve_app.database import Database, missing_only
from serve_app.retrieval.registry import tables
from serve_app.retrieval.registry.claims import parts
from serve_app.retrieval.registry.entries import Seen

files = tables.files.c

FileState = Literal["in", "read", "failed"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as it is listed, and as it was read.

    Attributes:
        same: It is in as it is listed.
        sha256: Of what was read of it the last time, where all of that is in; else empty.
        known: An earlier run has begun to read it, so it may have had other documents.
    """

    seen: Seen
    same: bool
    sha256: str
    known: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """How the reading of a file ended."""

    source: str
    url: str
    sha256: str
    state: FileState
    problem: str = ""


class Runs:
    """Every method is one transaction, whatever it is given: batches are the caller's to bound.

    Args of most:
        run: Names the run; 32 characters at most.
        started: When it began, in Unix seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def hold(
        self, collection: str, tenant: str, source: str, run: str, seconds: float, dead: str = ""
    ) -> bool:
        """Have a source for oneself for so long, or again so long; whether it is ours.

        Args:
            dead: A run that is known to be over, whatever it has said.
        """
        table, now = tables.sources, self._clock()
        row = {"collection": collection, "tenant": tenant, "source": source}
        free = or_(
            table.c.held_by.is_(None),
            table.c.held_by.in_([run, dead]),
            table.c.held_until < now,
        )
        taken = (
            update(table)
            .where(*of(table, collection, tenant, source), free)
            .values(held_by=run, held_until=now + seconds)
        )

        def work(connection: Connection) -> bool:
            missing_only(connection, table, [row])
            return connection.execute(taken).rowcount > 0

        return await self._database.write(work)

    async def holder(self, collection: str, tenant: str, source: str) -> str:
        """The run that has a source, or had it last; empty for none."""
        table = tables.sources
        asked = select(table.c.held_by).where(*of(table, collection, tenant, source))
        return await self._database.read(lambda it: it.execute(asked).scalar()) or ""

    async def let_go(self, collection: str, tenant: str, source: str, run: str) -> None:
        table = tables.sources
        left = (
            update(table)
            .where(*of(table, collection, tenant, source), table.c.held_by == run)
            .values(held_by=None, held_until=0.0)
        )
        await self._database.write(lambda it: it.execute(left))

    async def listed(
        self, collection: str, tenant: str, source: str, seen: Sequence[Seen]
    ) -> list[Listed]:
        """What is registered of listed files, in their order; they are noted as seen.

        A file of which the listing says neither a time nor an `etag` is never the same.
        """
        now = self._clock()

        def work(connection: Connection) -> list[Listed]:
            found: list[Listed] = []
            for part in parts(seen):
                here = (
                    *of(tables.files, collection, tenant, source),
                    files.url.in_([each.url for each in part]),
                )
                asked = select(tables.files).where(*here)
                there = {row.url: row for row in connection.execute(asked)}
                connection.execute(update(tables.files).where(*here).values(seen_at=now))
                found += [_listed(there.get(each.url), each) for each in part]
            return found

        return await self._database.write(work)

    async def begin(
        self, collection: str, tenant: str, source: str, run: str, about: Sequence[Seen]
    ) -> None:
        """Files are about to be read: until their reading has ended they count as changed."""
        now = self._clock()
        rows = [
            {
                "collection": collection,
                "tenant": tenant,
                "source": source,
                "url": each.url,
                "size": each.size,
                "mtime": each.mtime,
                "etag": each.etag,
                "sha256": "",
                "problem": "",
                "state": "pending",
                "run": run,
                "seen_at": now,
            }
            for each in about
        ]

        def work(connection: Connection) -> None:
            for part in parts(rows):
                urls = [row["url"] for row in part]
                connection.execute(
                    delete(tables.files).where(
                        *of(tables.files, collection, tenant, source), files.url.in_(urls)
                    )
                )
            if rows:
                connection.execute(insert(tables.files), rows)

        await self._database.write(work)

    async def end(self, collection: str, tenant: str, run: str, ended: Sequence[Ended]) -> None:
        """Note how the reading of files ended that the run had begun."""
        statement = (
            update(tables.files)
            .where(
                files.collection == collection,
                files.tenant == tenant,
                files.source == bindparam("of_source"),
                files.url == bindparam("of_url"),
                files.run == run,
            )
            .values(
                sha256=bindparam("to_sha256"),
                state=bindparam("to_state"),
                problem=bindparam("to_problem"),
            )
        )
        rows = [
            {
                "of_source": each.source,
                "of_url": each.url,
                "to_sha256": each.sha256,
                "to_state": each.state,
                "to_problem": each.problem,
            }
            for each in ended
        ]
        if rows:
            await self._database.write(lambda it: it.execute(statement, rows))

    async def settle(
        self, collection: str, tenant: str, source: str, run: str, urls: Sequence[str]
    ) -> None:
        """What files that a run has read no longer hold has been removed: they are in."""

        def work(connection: Connection) -> None:
            for part in parts(urls):
                connection.execute(
                    update(tables.files)
                    .where(
                        *of(tables.files, collection, tenant, source),
                        files.url.in_(part),
                        files.run == run,
                        files.state == "read",
                    )
                    .values(state="in")
                )

        await self._database.write(work)

    async def lose(self, collection: str, tenant: str, source: str, url: str, problem: str) -> None:
        """A file has lost a document to another one: it is read again by the next run."""
        said = (
            update(tables.files)
            .where(*of(tables.files, collection, tenant, source), files.url == url)
            .values(state="failed", problem=problem)
        )
        await self._database.write(lambda it: it.execute(said))

    async def was_read(
        self, collection: str, tenant: str, source: str, run: str, after: str, limit: int
    ) -> list[str]:
        """URLs of files that a run has read and that may hold less than before, in order."""
        asked = (
            select(files.url)
            .where(
                *of(tables.files, collection, tenant, source),
                files.url > after,
                files.state == "read",
                files.run == run,
            )
            .order_by(files.url)
            .limit(limit)
        )
        return await self._database.read(lambda it: list(it.execute(asked).scalars()))

    async def gone(
        self, collection: str, tenant: str, source: str, started: float, after: str, limit: int
    ) -> list[str]:
        """URLs of files that no run has seen since then, in order."""
        asked = (
            select(files.url)
            .where(
                *of(tables.files, collection, tenant, source),
                files.url > after,
                files.seen_at < started,
            )
            .order_by(files.url)
            .limit(limit)
        )
        return await self._database.read(lambda it: list(it.execute(asked).scalars()))

    async def forget(self, collection: str, tenant: str, source: str, urls: Sequence[str]) -> None:
        """Forget files that are gone."""

        def work(connection: Connection) -> None:
            for part in parts(urls):
                connection.execute(
                    delete(tables.files).where(
                        *of(tables.files, collection, tenant, source), files.url.in_(part)
                    )
                )

        await self._database.write(work)


def of(table: Any, collection: str, tenant: str, source: str) -> tuple[ColumnElement[bool], ...]:
    return table.c.collection == collection, table.c.tenant == tenant, table.c.source == source


def _listed(row: Row[Any] | None, seen: Seen) -> Listed:
    if row is None:
        return Listed(seen, same=False, sha256="", known=False)
    is_in = row.state == "in"
    told = bool(seen.mtime or seen.etag)
    as_listed = (row.size, row.mtime, row.etag) == (seen.size, seen.mtime, seen.etag)
    sha256 = row.sha256 if is_in else ""
    return Listed(seen, same=is_in and told and as_listed, sha256=sha256, known=True)
