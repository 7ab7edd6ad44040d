"""Documents as bulk runs meet them in files, and what a file or a source has in an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update

from serve_app.database import Database, missing_only
from serve_app.domain import Document
from serve_app.retrieval import admission
from serve_app.retrieval.registry import tables
from serve_app.retrieval.registry.claims import entry, parts
from serve_app.retrieval.registry.entries import Entry, Facts
from serve_app.retrieval.registry.runs import of

files, documents, copies = tables.files.c, tables.documents.c, tables.copies.c

Verdict = Literal["same", "new", "later", "twice", "elsewhere"]


@dataclass(frozen=True, slots=True)
class Totals:
    """Of some documents in an index."""

    documents: int = 0
    chunks: int = 0
    tokens: int = 0

    def __add__(self, more: Totals) -> Totals:
        return Totals(
            self.documents + more.documents,
            self.chunks + more.chunks,
            self.tokens + more.tokens,
        )

    def __sub__(self, less: Totals) -> Totals:
        return self + Totals(-less.documents, -less.chunks, -less.tokens)


NOTHING = Totals()


@dataclass(frozen=True, slots=True)
class Met:
    """What is to be done with a document that was read.

    Attributes:
        verdict: `same`: it is in as it is. `new`: it is to be put. `later`: another file of the
            source had it the last time and has not been read yet by this run. `twice`: another
            file of the source has it too, and comes first. `elsewhere`: it is that of a file of
            another source.
        url, source: Of the file that has it, or that has lost it to this one.
        own: It was read from the same file before.
        held: What is in force of it, if it is of the same source.
    """

    verdict: Verdict
    url: str = ""
    source: str = ""
    own: bool = False
    held: Totals = NOTHING


class Meetings:
    """Every method is one transaction, whatever it is given: batches are the caller's to bound."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def meet(
        self,
        collection: str,
        index: str,
        wanted: Sequence[Facts],
        run: str,
        started: float,
        *,
        last: bool = False,
        dry: bool = False,
    ) -> list[Met]:
        """What is to be done with documents that were read, each once; they are noted as seen.

        Of two files of a source that have one document the one whose URL comes first keeps it,
        whichever is read first.

        Args:
            run: Names the run; 32 characters at most.
            started: When it began, in Unix seconds.
            index: The one in force; of copies in it the chunks are counted.
            last: No other file remains to be read: what was put off is decided.
            dry: Note nothing.
        """
        now = self._clock()

        def work(connection: Connection) -> list[Met]:
            if not dry:
                _register(connection, collection, wanted, run, now)
            there = _documents(connection, collection, wanted, lock=not dry)
            held = _held_of(connection, index, list(there))
            rivals = _rivals(connection, collection, wanted, there)
            met = []
            for facts in wanted:
                row = there.get(facts.key)
                one = _verdict(row, facts, rivals, run, started, last=last)
                if row is not None and row.state == "in" and row.source == facts.source:
                    one = replace(one, own=row.url == facts.url, held=held.get(facts.key, NOTHING))
                met.append(one)
            if not dry:
                _note(connection, collection, wanted, met, run)
            return met

        return await (self._database.read if dry else self._database.write)(work)

    async def unseen(
        self, collection: str, tenant: str, source: str, urls: Sequence[str], run: str, limit: int
    ) -> list[Entry]:
        """Documents of files that the run has not met in any, at most so many."""
        asked = (
            select(tables.documents)
            .where(
                documents.collection == collection,
                documents.tenant == tenant,
                documents.source == source,
                documents.url.in_(urls),
                documents.state == "in",
                documents.run != run,
                tables.HAS_URL,
            )
            .limit(limit)
        )
        return await self._database.read(lambda it: [entry(row) for row in it.execute(asked)])

    async def unseen_of_source(
        self, collection: str, tenant: str, source: str, run: str, limit: int
    ) -> list[Entry]:
        """The same of a source whose documents do not say their files: those sent over HTTP, and
        those of a collection that is older than the registry."""
        asked = (
            select(tables.documents)
            .where(
                documents.collection == collection,
                documents.tenant == tenant,
                documents.source == source,
                func.length(documents.url) == 0,
                documents.state == "in",
                documents.run != run,
            )
            .limit(limit)
        )
        return await self._database.read(lambda it: [entry(row) for row in it.execute(asked)])

    async def holds(
        self, collection: str, index: str, tenant: str, urls: Sequence[str]
    ) -> dict[str, Totals]:
        """What files have in an index, by URL."""
        asked = (
            select(
                documents.url,
                func.count(),
                func.sum(copies.chunks),
                func.sum(copies.tokens),
            )
            .select_from(_held(index))
            .where(
                documents.collection == collection,
                documents.tenant == tenant,
                documents.url.in_(urls),
                documents.state == "in",
                tables.HAS_URL,
            )
            .group_by(documents.url)
        )
        found = await self._database.read(lambda it: it.execute(asked).all())
        return {row[0]: Totals(row[1], int(row[2]), int(row[3])) for row in found}

    async def totals(
        self, collection: str, index: str, tenant: str, sources: Sequence[str]
    ) -> Totals:
        """What a tenant has from sources in an index."""
        asked = (
            select(
                func.count(),
                func.coalesce(func.sum(copies.chunks), 0),
                func.coalesce(func.sum(copies.tokens), 0),
            )
            .select_from(_held(index))
            .where(
                documents.collection == collection,
                documents.tenant == tenant,
                documents.source.in_(sources),
                documents.state == "in",
            )
        )
        found = await self._database.read(lambda it: it.execute(asked).one())
        return Totals(int(found[0]), int(found[1]), int(found[2]))

    async def forget_unwritten(self, collection: str, tenant: str, source: str, run: str) -> None:
        """Forget documents that a run of before has met and never put."""
        left = delete(tables.documents).where(
            documents.collection == collection,
            documents.tenant == tenant,
            documents.source == source,
            documents.state == "pending",
            documents.version == 0,
            documents.claim.is_(None),
            documents.run != run,
        )
        await self._database.write(lambda it: it.execute(left))


def _held(index: str) -> Any:
    there = (copies.index_name == index) & (copies.key == documents.key)
    return tables.documents.join(tables.copies, there)


def _register(
    connection: Connection, collection: str, wanted: Sequence[Facts], run: str, now: float
) -> None:
    """Make rows of documents that have none; two that come at once do not both make one."""
    rows = [
        {
            "collection": collection,
            "key": facts.key,
            "tenant": facts.tenant,
            "id": facts.id,
            "state": "pending",
            "source": facts.source,
            "url": facts.url,
            "run": run,
            "created_at": now,
            "updated_at": now,
        }
        for facts in sorted(wanted, key=lambda facts: facts.key)
    ]
    for part in parts(rows):
        missing_only(connection, tables.documents, list(part))


def _documents(
    connection: Connection, collection: str, wanted: Sequence[Facts], *, lock: bool
) -> dict[str, Row[Any]]:
    found: dict[str, Row[Any]] = {}
    # In one order, whoever asks: nobody waits for one who waits for him.
    for part in parts(sorted(facts.key for facts in wanted)):
        asked = (
            select(tables.documents)
            .where(documents.collection == collection, documents.key.in_(part))
            .order_by(documents.key)
        )
        asked = asked.with_for_update() if lock else asked
        found |= {row.key: row for row in connection.execute(asked)}
    return found


def _held_of(connection: Connection, index: str, keys: Sequence[str]) -> dict[str, Totals]:
    found: dict[str, Totals] = {}
    for part in parts(keys):
        asked = select(copies.key, copies.chunks, copies.tokens).where(
            copies.index_name == index, copies.key.in_(part)
        )
        found |= {row.key: Totals(1, row.chunks, row.tokens) for row in connection.execute(asked)}
    return found


def _rivals(
    connection: Connection,
    collection: str,
    wanted: Sequence[Facts],
    there: Mapping[str, Row[Any]],
) -> dict[tuple[str, str], Row[Any]]:
    """Other files of the same source that have one of the documents, by source and URL."""
    others: dict[tuple[str, str], set[str]] = {}
    for facts in wanted:
        row = there.get(facts.key)
        if row is not None and row.source == facts.source and row.url not in ("", facts.url):
            others.setdefault((facts.tenant, facts.source), set()).add(row.url)
    found: dict[tuple[str, str], Row[Any]] = {}
    for (tenant, source), urls in others.items():
        for part in parts(sorted(urls)):
            asked = select(tables.files).where(
                *of(tables.files, collection, tenant, source), files.url.in_(part)
            )
            found |= {(source, row.url): row for row in connection.execute(asked)}
    return found


def _verdict(
    row: Row[Any] | None,
    facts: Facts,
    rivals: Mapping[tuple[str, str], Row[Any]],
    run: str,
    started: float,
    *,
    last: bool,
) -> Met:
    if row is None:
        return Met("new")
    is_in = row.state == "in"
    if is_in and row.url != facts.url and admission.taken(_document(facts), row.source, row.url):
        return Met("elsewhere", row.url, row.source)
    same = is_in and row.sha256 == facts.sha256 and row.claim is None
    kept: Verdict = "same" if same else "new"
    rival = rivals.get((facts.source, row.url)) if row.source == facts.source else None
    met_there = row.run == run
    if rival is None or rival.seen_at < started or not (is_in or met_there):
        return Met(kept)  # nobody else has it, or none that is still there
    if not met_there and rival.state not in ("in", "failed"):
        # The other file has changed, and may not have it any more.
        return Met(kept) if last else Met("later", row.url)
    if row.url < facts.url:
        return Met("twice", row.url)
    return Met(kept, row.url) if last else Met("later", row.url)


def _document(facts: Facts) -> Document:
    return Document(facts.id, "", "", source=facts.source, url=facts.url)


def _note(
    connection: Connection, collection: str, wanted: Sequence[Facts], met: Sequence[Met], run: str
) -> None:
    taken = [
        {"of": facts.key, "to_source": facts.source, "to_url": facts.url, "to_run": run}
        for facts, one in zip(wanted, met, strict=True)
        if one.verdict in ("same", "new")
    ]
    statement = (
        update(tables.documents)
        .where(documents.collection == collection, documents.key == bindparam("of"))
        .values(source=bindparam("to_source"), url=bindparam("to_url"), run=bindparam("to_run"))
    )
    if taken:
        connection.execute(statement, taken)
