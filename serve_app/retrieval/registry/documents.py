"""Documents: claimed, committed and released by their writers, read by everybody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, select, tuple_, update

from serve_app.database import Database, missing_only
from serve_app.domain import EVERY_GROUP
from serve_app.retrieval.registry import claims, series, tables
from serve_app.retrieval.registry.behind import count_behind, is_behind, joined
from serve_app.retrieval.registry.claims import entry
from serve_app.retrieval.registry.collections import locked
from serve_app.retrieval.registry.entries import (
    Claim,
    Committed,
    Copy,
    Entry,
    Facts,
    Intent,
    Kept,
    Obsolete,
    collection_of,
    document_key,
)
from serve_app.retrieval.registry.rights import readable

_REDATED = 200  # documents in one transaction

documents, copies = tables.documents.c, tables.copies.c


class Documents:
    """Every method is one transaction, whatever it is given: batches are the caller's to bound."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    # What writers do

    async def claim(
        self,
        collection: str,
        wanted: Sequence[Facts],
        token: str,
        seconds: float,
        intent: Intent | None,
    ) -> list[Claim] | None:
        """Have documents for oneself for so long: all of them, or none.

        Args:
            wanted: What is to be put, each document once. To delete or to copy, tenant and id do.
            token: Names the writer; no two have the same.
            intent: What a mender has to finish, should the writer die; `None` leaves what stands.

        Returns:
            The claims in the order wanted, without documents that nobody has heard of, where they
            are not to be put; `None` where another writer has one of them.
        """
        now = self._clock()

        def work(connection: Connection) -> list[Claim]:
            if intent == "put":
                claims.register(connection, collection, wanted, now)
            return claims.take(connection, collection, wanted, token, now, seconds, intent)

        try:
            return await self._database.write(work)
        except claims.Busy:
            return None

    async def claim_free(
        self,
        collection: str,
        wanted: Sequence[Facts],
        token: str,
        seconds: float,
        intent: Intent | None,
        rewrites: str | None = None,
    ) -> list[Claim]:
        """The same for those of registered documents that no other writer has.

        Args:
            rewrites: An index where their rows are to be written over: it is behind with them
                until that is done, whatever becomes of the writer.
        """
        now = self._clock()

        def work(connection: Connection) -> list[Claim]:
            made = claims.take(
                connection, collection, wanted, token, now, seconds, intent, skip_busy=True
            )
            if rewrites is not None:
                claims.distrust(connection, rewrites, [each.key for each in made])
            return made

        return await self._database.write(work)

    async def renew(self, token: str, seconds: float) -> None:
        """Keep what is claimed for so long from now on."""
        kept = (
            update(tables.documents)
            .where(documents.claim == token)
            .values(claimed_until=self._clock() + seconds)
        )
        await self._database.write(lambda it: it.execute(kept))

    async def abandon(self, token: str) -> None:
        """Leave what is claimed to be mended, at once."""
        left = update(tables.documents).where(documents.claim == token).values(claimed_until=0.0)
        await self._database.write(lambda it: it.execute(left))

    async def commit(
        self,
        collection: str,
        token: str,
        puts: Mapping[str, tuple[Facts, Mapping[str, Copy]]],
        deletes: Sequence[str] = (),
    ) -> Committed:
        """Put claimed documents in force as they have been written, or out of it.

        Args:
            puts: By key: what is known of each, and its copies by index.
            deletes: Keys.

        Raises:
            ClaimLost: One of them is not this writer's any more. Nothing is committed.
            NotFound: The collection has been removed.
        """

        def work(connection: Connection) -> Committed:
            active = locked(connection, collection).active
            written = [set(by_index) for _, by_index in puts.values()]
            behind = [each.name for each in active if any(each.name not in it for it in written)]
            if behind:
                return Committed(behind=tuple(behind))
            return claims.put_in_force(connection, collection, token, puts, deletes, self._clock())

        return await self._database.write(work)

    async def copied(
        self, collection: str, token: str, index: str, made: Sequence[Copy]
    ) -> list[Obsolete]:
        """Register copies of claimed documents in an index; returns the rows they replace.

        Raises:
            ClaimLost: One of them is not this writer's any more.
        """

        def work(connection: Connection) -> list[Obsolete]:
            keys = [each.key for each in made]
            claims.held(connection, collection, token, keys)
            before = claims.copies_of(connection, collection, keys)
            claims.write_copies(connection, {index: made})
            now_at = {each.key: each.version for each in made}
            return [
                each for each in before if each.index == index and each.version != now_at[each.key]
            ]

        return await self._database.write(work)

    async def removed(self, obsolete: Sequence[Obsolete]) -> None:
        """Forget copies whose rows have been removed; what replaced them meanwhile stays."""
        if not obsolete:
            return
        gone = [(each.index, each.key, each.version) for each in obsolete]

        def work(connection: Connection) -> None:
            named = tuple_(copies.index_name, copies.key, copies.version)
            for part in claims.parts(gone):
                connection.execute(delete(tables.copies).where(named.in_(part)))

        await self._database.write(work)

    async def release(self, collection: str, token: str, obsolete: Sequence[Obsolete]) -> list[str]:
        """Give claimed documents up; rows that were out of force have been removed.

        Returns:
            Keys of those that are behind in an index all the same: to be mended.
        """
        await self.removed(obsolete)

        def work(connection: Connection) -> list[str]:
            return claims.release(connection, collection, token)

        return await self._database.write(work)

    async def distrust(self, index: str, keys: Sequence[str]) -> None:
        """Rows of copies are not what they should be: the index is behind with those documents."""
        await self._database.write(lambda it: claims.distrust(it, index, keys))

    async def lose(self, collection: str, token: str, keys: Sequence[str], problem: str) -> None:
        """Claimed documents have no rows left: they have to be ingested again.

        Raises:
            ClaimLost: One of them is not this writer's any more.
        """

        def work(connection: Connection) -> None:
            rows = claims.held(connection, collection, token, keys)
            for row in rows.values():
                connection.execute(
                    update(tables.documents)
                    .where(documents.collection == collection, documents.key == row.key)
                    .values(state="failed", problem=problem, sha256="", updated_at=self._clock())
                )
                read = tables.files.c
                connection.execute(
                    update(tables.files)
                    .where(
                        read.collection == collection,
                        read.tenant == row.tenant,
                        read.url == row.url,
                    )
                    .values(state="failed", problem=problem)
                )

        await self._database.write(work)

    async def fail(self, collection: str, failed: Sequence[tuple[Facts, str]]) -> None:
        """Say why documents could not be read; what is in force of them stays in force."""
        now = self._clock()

        def work(connection: Connection) -> None:
            claims.register(connection, collection, [facts for facts, _ in failed], now)
            for facts, problem in failed:
                never = documents.version == 0
                connection.execute(
                    update(tables.documents)
                    .where(documents.collection == collection, documents.key == facts.key)
                    .values(problem=problem, run=facts.run, updated_at=now)
                )
                connection.execute(
                    update(tables.documents)
                    .where(documents.collection == collection, documents.key == facts.key, never)
                    .values(state="failed", source=facts.source, url=facts.url)
                )

        await self._database.write(work)

    async def seen(self, collection: str, keys: Sequence[str], run: str) -> None:
        """Note that a bulk run has seen documents, which are as they were."""

        def work(connection: Connection) -> None:
            for part in claims.parts(keys):
                connection.execute(
                    update(tables.documents)
                    .where(documents.collection == collection, documents.key.in_(part))
                    .values(run=run)
                )

        await self._database.write(work)

    async def adopt(self, collection: str, index: str, there: Sequence[tuple[Facts, Copy]]) -> None:
        """Register documents that an index holds already; those that are registered stay so."""
        now = self._clock()

        def work(connection: Connection) -> None:
            rows = [
                {
                    **{name: value for name, value in asdict(facts).items() if name != "original"},
                    "collection": collection,
                    "key": copy.key,
                    "state": "in",
                    "version": copy.version,
                    "since": copy.since,
                    "until": copy.until,
                    "created_at": now,
                    "updated_at": now,
                }
                for facts, copy in there
            ]
            for part in claims.parts(rows):
                missing_only(connection, tables.documents, list(part))
            claims.write_copies(connection, {index: [copy for _, copy in there]})

        await self._database.write(work)

    async def redate(self, collection: str) -> None:
        """Set when documents of series are in force, and mark those whose rows say otherwise."""
        after = ""
        while True:
            asked = (
                select(tables.documents)
                .where(
                    documents.collection == collection,
                    documents.key > after,
                    documents.state == "in",
                    tables.HAS_SERIES,
                )
                .order_by(documents.key)
                .limit(_REDATED)
            )
            page = await self._entries(asked)
            if not page:
                return
            after = page[-1].key
            facts = [each.facts for each in page]
            await self._database.write(partial(_redate, collection, facts))

    # What everybody else asks

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

    async def entry(self, collection: str, tenant: str, document_id: str) -> Entry | None:
        key = document_key(tenant, document_id)
        return (await self.entries(collection, [key])).get(key)

    async def stored(self, collection: str, key: str) -> Kept | None:
        """A document, and what was put; `None` where nobody has heard of it."""
        kept = tables.originals.c
        same = and_(kept.collection == documents.collection, kept.key == documents.key)
        asked = (
            select(tables.documents, kept.content)
            .select_from(tables.documents.outerjoin(tables.originals, same))
            .where(documents.collection == collection, documents.key == key)
        )
        row = await self._database.read(lambda it: it.execute(asked).one_or_none())
        return None if row is None else Kept(entry(row), row.content)

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

    async def changed_at(self) -> float | None:
        """When a document was written or removed last, of any collection, by whomever."""
        asked = select(func.max(documents.updated_at))
        return await self._database.read(lambda it: it.execute(asked).scalar_one())

    async def forget_deleted(self, collection: str, before: float, limit: int = 1000) -> int:
        """Remove some that were deleted long ago and that no index holds; returns how many."""
        copy = exists().where(
            copies.key == documents.key,
            copies.index_name.in_(
                select(tables.indexes.c.name).where(tables.indexes.c.collection == collection)
            ),
        )

        def work(connection: Connection) -> int:
            old = select(documents.key).where(
                documents.collection == collection,
                documents.state == "deleted",
                documents.updated_at < before,
                documents.claim.is_(None),
                ~copy,
            )
            keys = list(connection.execute(old.limit(limit).with_for_update()).scalars())
            for part in claims.parts(keys):
                connection.execute(
                    delete(tables.documents).where(
                        documents.collection == collection, documents.key.in_(part)
                    )
                )
            return len(keys)

        return await self._database.write(work)

    async def _entries(self, asked: Any) -> list[Entry]:
        return await self._database.read(lambda it: [entry(row) for row in it.execute(asked)])


def _redate(collection: str, touched: Sequence[Facts], connection: Connection) -> None:
    series.lock(connection, collection, touched)
    series.redate(connection, collection, touched, written=set())
