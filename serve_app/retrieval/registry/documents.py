"""Documents: claimed, committed and released by their writers; read as `lookups` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

from sqlalchemy import Connection, delete, exists, select, tuple_, update

from serve_app.database import missing_only
from serve_app.retrieval.registry import claims, series, tables
from serve_app.retrieval.registry.collections import locked
from serve_app.retrieval.registry.entries import (
    Claim,
    Committed,
    Copy,
    Facts,
    Intent,
    Obsolete,
)
from serve_app.retrieval.registry.lookups import Lookups

_REDATED = 200  # documents in one transaction

documents, copies = tables.documents.c, tables.copies.c


class Documents(Lookups):
    """What writers do, beside all that is asked of documents.

    Every method is one transaction, whatever it is given: batches are the caller's to bound.
    """

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


def _redate(collection: str, touched: Sequence[Facts], connection: Connection) -> None:
    series.lock(connection, collection, touched)
    series.redate(connection, collection, touched, written=set())
