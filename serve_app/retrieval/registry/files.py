"""What bulk runs have read: so that the next one reads what has changed and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select, update

from serve_app.database import Database, missing_only
from serve_app.retrieval.registry import tables
from serve_app.retrieval.registry.claims import parts
from serve_app.retrieval.registry.entries import Seen

files = tables.files.c


class Files:
    """Every method is one transaction, whatever it is given: batches are the caller's to bound.

    Args of all:
        source: The argument of the run that found a file.
        run: Names the run.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def unchanged(
        self, collection: str, tenant: str, source: str, run: str, listed: Sequence[Seen]
    ) -> set[str]:
        """URLs of files that are in as they are listed: they need not be read.

        They are noted as seen by the run. A file of which the listing says neither a time nor an
        `etag` is never among them.
        """
        by_url = {each.url: each for each in listed if each.mtime or each.etag}

        def work(connection: Connection) -> set[str]:
            same: set[str] = set()
            for part in parts(sorted(by_url)):
                asked = select(tables.files).where(
                    *_of(collection, tenant, source), files.url.in_(part), files.state == "in"
                )
                for row in connection.execute(asked):
                    each = by_url[row.url]
                    if (row.size, row.mtime, row.etag) == (each.size, each.mtime, each.etag):
                        same.add(row.url)
            self._see(connection, collection, tenant, source, run, sorted(same))
            return same

        return await self._database.write(work)

    async def begun(
        self, collection: str, tenant: str, source: str, run: str, listed: Sequence[Seen]
    ) -> dict[str, str]:
        """Files are about to be read: until they are `done` they count as changed.

        Returns:
            The SHA-256 of what was read of each the last time, by URL, where all of it went in.
        """
        about = {each.url: each for each in listed}
        of = {"collection": collection, "tenant": tenant, "source": source}

        def work(connection: Connection) -> dict[str, str]:
            before: dict[str, str] = {}
            for part in parts(sorted(about)):
                asked = select(files.url, files.sha256, files.state).where(
                    *_of(collection, tenant, source), files.url.in_(part)
                )
                there = connection.execute(asked).all()
                before |= {row.url: row.sha256 for row in there if row.state == "in"}
                connection.execute(
                    delete(tables.files).where(
                        *_of(collection, tenant, source), files.url.in_(part)
                    )
                )
                rows = [{**of, "url": url, **self._about(about[url], run)} for url in part]
                missing_only(connection, tables.files, rows)
            return before

        return await self._database.write(work)

    async def done(
        self, collection: str, tenant: str, source: str, url: str, sha256: str, problem: str = ""
    ) -> None:
        """A file's documents are in; or why not all of them are: then it is read again."""
        said = (
            update(tables.files)
            .where(*_of(collection, tenant, source), files.url == url)
            .values(sha256=sha256, problem=problem, state="failed" if problem else "in")
        )
        await self._database.write(lambda it: it.execute(said))

    async def gone(
        self, collection: str, tenant: str, source: str, run: str, limit: int, after: str = ""
    ) -> list[str]:
        """URLs of files that the run has not seen, in order, those behind `after`."""
        asked = (
            select(files.url)
            .where(*_of(collection, tenant, source), files.run != run, files.url > after)
            .order_by(files.url)
            .limit(limit)
        )
        return await self._database.read(lambda it: list(it.execute(asked).scalars()))

    async def forget(self, collection: str, tenant: str, source: str, urls: Sequence[str]) -> None:
        def work(connection: Connection) -> None:
            for part in parts(urls):
                connection.execute(
                    delete(tables.files).where(
                        *_of(collection, tenant, source), files.url.in_(part)
                    )
                )

        await self._database.write(work)

    def _about(self, seen: Seen, run: str) -> dict[str, Any]:
        return {
            "size": seen.size,
            "mtime": seen.mtime,
            "etag": seen.etag,
            "state": "pending",
            "run": run,
            "seen_at": self._clock(),
        }

    def _see(
        self,
        connection: Connection,
        collection: str,
        tenant: str,
        source: str,
        run: str,
        urls: Sequence[str],
    ) -> None:
        for part in parts(urls):
            connection.execute(
                update(tables.files)
                .where(*_of(collection, tenant, source), files.url.in_(part))
                .values(run=run, seen_at=self._clock())
            )


def _of(collection: str, tenant: str, source: str) -> tuple[ColumnElement[bool], ...]:
    return files.collection == collection, files.tenant == tenant, files.source == source
