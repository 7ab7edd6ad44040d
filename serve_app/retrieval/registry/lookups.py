"""What is asked of the registered documents, by whoever searches, lists, mends or compares them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, func, select

from serve_app.database import Database
from serve_app.domain import EVERY_GROUP
from serve_app.retrieval.registry import claims, tables
from serve_app.retrieval.registry.behind import count_behind, is_behind, joined
from serve_app.retrieval.registry.claims import entry
from serve_app.retrieval.registry.entries import (
    Copy,
    Entry,
    Kept,
    Obsolete,
    Standing,
    collection_of,
    document_key,
)
from serve_app.retrieval.registry.rights import readable

documents, copies = tables.documents.c, tables.copies.c


class Lookups:
    """Every method reads once, and locks nothing."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def entries(self, collection: str, keys: Sequence[str]) -> dict[str, Entry]:
        """Documents by key; those that nobody has heard of are left out."""

        def work(connection: Connection) -> dict[str, Entry]:
            found: dict[str, Entry] = {}
            for part in claims.parts(keys):
                asked = select(tables.documents).where(
                    documents.collection == collection, documents.key.in_(part)
                )
                found |= {row.key: entry(row) for row in connection.execute(asked)}
            return found

        return await self._database.read(work)

    async def standing(self, collection: str, keys: Sequence[str]) -> dict[str, Standing]:
        """Of the documents that are in, what tells whether a row of them still stands."""

        def work(connection: Connection) -> dict[str, Standing]:
            found: dict[str, Standing] = {}
            for part in claims.parts(keys):
                asked = select(
                    documents.key,
                    documents.version,
                    documents.allow,
                    documents.updated_at,
                    documents.claim,
                ).where(
                    documents.collection == collection,
                    documents.key.in_(part),
                    documents.state == "in",
                )
                for key, version, allow, updated_at, claim in connection.execute(asked):
                    changed_at = None if claim else updated_at
                    found[key] = Standing(version, allow, changed_at)
            return found

        return await self._database.read(work)

    async def entry(self, collection: str, tenant: str, document_id: str) -> Entry | None:
        key = document_key(tenant, document_id)
        return (await self.entries(collection, [key])).get(key)

    async def stored(self, collection: str, index: str, key: str) -> Kept | None:
        """A document, what was put and its copy in an index, as they are at one moment; `None`
        where nobody has heard of it."""
        put = tables.originals.c
        own = and_(put.collection == documents.collection, put.key == documents.key)
        there = (
            select(tables.documents, put.content)
            .select_from(tables.documents.outerjoin(tables.originals, own))
            .where(documents.collection == collection, documents.key == key)
        )
        held = select(tables.copies).where(copies.index_name == index, copies.key == key)

        def work(connection: Connection) -> Kept | None:
            row = connection.execute(there).one_or_none()
            mine = connection.execute(held).one_or_none()
            if row is None:
                return None
            return Kept(entry(row), row.content, None if mine is None else claims.copy(mine))

        return await self._database.read(work)

    async def page(
        self,
        collection: str,
        tenant: str,
        after: str = "",
        limit: int = 100,
        state: str = "in",
        source: str | None = None,
        groups: Sequence[str] = (EVERY_GROUP,),
    ) -> list[Entry]:
        """A tenant's documents ordered by id, those behind `after`, at most so many.

        Args:
            source: Those of that one alone.
            groups: Those that these may read.
        """
        asked = (
            select(tables.documents)
            .where(
                documents.collection == collection,
                documents.tenant == tenant,
                documents.id > after,
                documents.state == state,
                readable(groups),
            )
            .order_by(documents.id)
            .limit(limit)
        )
        if source is not None:
            asked = asked.where(documents.source == source)
        return await self._entries(asked)

    async def of_file(
        self, collection: str, tenant: str, url: str, *, unseen_by: str, after: str, limit: int
    ) -> list[Entry]:
        """Documents of a file that a run has not seen, by id, those behind `after`."""
        asked = (
            select(tables.documents)
            .where(
                documents.collection == collection,
                documents.tenant == tenant,
                documents.url == url,
                documents.state == "in",
                documents.run != unseen_by,
                documents.id > after,
                tables.HAS_URL,
            )
            .order_by(documents.id)
            .limit(limit)
        )
        return await self._entries(asked)

    async def behind(
        self, collection: str, index: str, after: str = "", limit: int = 100
    ) -> list[Entry]:
        """Documents that an index does not hold as they are, by key, those behind `after`."""
        asked = (
            select(tables.documents)
            .select_from(joined(index))
            .where(documents.collection == collection, documents.key > after, is_behind())
            .order_by(documents.key)
            .limit(limit)
        )
        return await self._entries(asked)

    async def behind_of(self, collection: str, index: str, keys: Sequence[str]) -> list[Entry]:
        """Those of some documents that an index does not hold as they are."""
        found: list[Entry] = []
        for part in claims.parts(keys):
            asked = (
                select(tables.documents)
                .select_from(joined(index))
                .where(documents.collection == collection, documents.key.in_(part), is_behind())
            )
            found += await self._entries(asked)
        return found

    async def abandoned(
        self, collection: str | None = None, limit: int = 100
    ) -> dict[str, list[Entry]]:
        """Documents whose writer has died, or which are to be mended for another reason, by
        collection; at most so many."""
        asked = select(tables.documents).where(documents.claimed_until < self._clock())
        if collection is not None:
            asked = asked.where(documents.collection == collection)
        asked = asked.order_by(documents.claimed_until).limit(limit)

        def work(connection: Connection) -> dict[str, list[Entry]]:
            found: dict[str, list[Entry]] = {}
            for row in connection.execute(asked):
                found.setdefault(row.collection, []).append(entry(row))
            return found

        return await self._database.read(work)

    async def copies(self, index: str, keys: Sequence[str]) -> dict[str, Copy]:
        """Copies in an index, by key."""

        def work(connection: Connection) -> dict[str, Copy]:
            found: dict[str, Copy] = {}
            for part in claims.parts(keys):
                asked = select(tables.copies).where(
                    copies.index_name == index, copies.key.in_(part)
                )
                found |= {row.key: claims.copy(row) for row in connection.execute(asked)}
            return found

        return await self._database.read(work)

    async def copies_everywhere(self, collection: str, keys: Sequence[str]) -> list[Obsolete]:
        """Copies in all indexes of a collection."""
        return await self._database.read(lambda it: claims.copies_of(it, collection, keys))

    async def copies_between(self, index: str, first: str, end: str) -> list[Copy]:
        """Copies in an index whose keys are in a half-open interval; an empty end is none."""
        asked = select(tables.copies).where(copies.index_name == index, copies.key >= first)
        if end:
            asked = asked.where(copies.key < end)
        return await self._database.read(
            lambda it: [claims.copy(row) for row in it.execute(asked.order_by(copies.key))]
        )

    async def in_force(
        self,
        collection: str,
        index: str,
        tenant: str,
        now: float,
        after: str,
        limit: int,
        groups: Sequence[str] = (EVERY_GROUP,),
    ) -> list[tuple[str, Copy]]:
        """A tenant's documents in an index that no version of their series hides, by id.

        Those behind the document `after`, at most so many.
        """
        asked = (
            select(tables.copies, documents.id)
            .select_from(joined(index))
            .where(
                documents.collection == collection,
                documents.tenant == tenant,
                documents.id > after,
                documents.state == "in",
                documents.since <= int(now),
                documents.until > int(now),
                readable(groups),
                copies.key.is_not(None),
            )
            .order_by(documents.id)
            .limit(limit)
        )
        return await self._database.read(
            lambda it: [(row.id, claims.copy(row)) for row in it.execute(asked)]
        )

    async def count_behind(self, collection: str, index: str) -> int:
        """How many documents an index does not hold as they are."""
        return await self._database.read(lambda it: count_behind(it, collection, index))

    async def tokens(
        self, index: str, tenant: str, most: int, groups: Sequence[str] = (EVERY_GROUP,)
    ) -> int:
        """Tokens of a tenant's documents that the groups may read, summed up to about `most`: more
        is told from less."""
        # Each has one at least: of so many documents the rest need not be looked at.
        some = (
            select(copies.tokens)
            .where(copies.index_name == index, copies.tenant == tenant)
            .limit(most + 1)
        )
        if EVERY_GROUP not in groups:
            mine = and_(documents.key == copies.key, documents.collection == collection_of(index))
            some = some.join(tables.documents, mine).where(readable(groups))
        summed = some.subquery()
        asked = select(func.coalesce(func.sum(summed.c.tokens), 0))
        return await self._database.read(lambda it: int(it.execute(asked).scalar_one()))

    async def held_by(self, index: str, tenant: str) -> tuple[int, int]:
        """How many chunks and tokens of a tenant an index holds."""
        asked = select(
            func.coalesce(func.sum(copies.chunks), 0), func.coalesce(func.sum(copies.tokens), 0)
        ).where(copies.index_name == index, copies.tenant == tenant)
        found = await self._database.read(lambda it: it.execute(asked).one())
        return int(found[0]), int(found[1])

    async def sizes(self, index: str) -> tuple[int, int]:
        """How many documents and chunks an index holds."""
        asked = select(func.count(), func.coalesce(func.sum(copies.chunks), 0)).where(
            copies.index_name == index
        )
        found = await self._database.read(lambda it: it.execute(asked).one())
        return int(found[0]), int(found[1])

    async def count(
        self, collection: str, tenant: str, groups: Sequence[str] = (EVERY_GROUP,)
    ) -> int:
        """How many documents of a tenant that the groups may read are in."""
        asked = select(func.count()).where(
            documents.collection == collection,
            documents.tenant == tenant,
            documents.state == "in",
            readable(groups),
        )
        return int(await self._database.read(lambda it: it.execute(asked).scalar_one()))

    async def states(self, collection: str) -> dict[str, int]:
        """How many documents are in each state."""
        asked = (
            select(documents.state, func.count())
            .where(documents.collection == collection)
            .group_by(documents.state)
        )
        found = await self._database.read(lambda it: it.execute(asked).all())
        return {state: count for state, count in found}  # noqa: C416  # rows, not pairs

    async def tenants(self, collection: str) -> dict[str, int]:
        """Whose documents are in, and how many of each."""
        asked = (
            select(documents.tenant, func.count())
            .where(documents.collection == collection, documents.state == "in")
            .group_by(documents.tenant)
        )
        found = await self._database.read(lambda it: it.execute(asked).all())
        return {tenant: count for tenant, count in found}  # noqa: C416  # rows, not pairs

    async def changed_at(self) -> float | None:
        """When a document was written or removed last, of any collection, by whomever."""
        asked = select(func.max(documents.updated_at))
        return await self._database.read(lambda it: it.execute(asked).scalar_one())

    async def _entries(self, asked: Any) -> list[Entry]:
        return await self._database.read(lambda it: [entry(row) for row in it.execute(asked)])
