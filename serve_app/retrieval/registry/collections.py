"""Collections and their indexes: which is searched, which is being filled, which is out of force.

Nothing moves a collection from one index to another but `switch`. Making, filling and removing
indexes is one process's at a time: who `hold`s the collection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, or_, select, update

from serve_app.database import Database, missing_only
from serve_app.errors import Conflict, NotFound, TooManyCollections
from serve_app.retrieval.registry import sketches, tables
from serve_app.retrieval.registry.behind import count_behind
from serve_app.retrieval.registry.entries import Collection, Index, index_name

_ROWS = 1000  # removed in one transaction, so that nobody waits long for it

collections, indexes = tables.collections.c, tables.indexes.c
documents, copies, files = tables.documents.c, tables.copies.c, tables.files.c


class Collections:
    """Every method is one transaction, but for `forget` and `forget_index`, which are many."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def get(self, name: str) -> Collection | None:
        return await self._database.read(lambda connection: _collection(connection, name))

    async def names(self, owner: str | None = None) -> list[str]:
        """Of all collections, or of those that a tenant has made, in order."""
        asked = select(collections.name).where(~collections.removing).order_by(collections.name)
        if owner is not None:
            asked = asked.where(collections.owner == owner)
        return await self._database.read(lambda it: list(it.execute(asked).scalars()))

    async def begin(self, name: str, owner: str, most: int | None = None) -> None:
        """Register a collection that has no index yet; one that is registered stays as it is.

        Args:
            most: Collections that its owner may have.

        Raises:
            TooManyCollections: The owner has so many.
        """

        def work(connection: Connection) -> None:
            if _row(connection, name) is not None:
                return
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("LOCK TABLE collections IN SHARE ROW EXCLUSIVE MODE")
            owned = select(func.count()).where(collections.owner == owner)
            if most is not None and connection.execute(owned).scalar_one() >= most:
                raise TooManyCollections(
                    f"there is no collection {name!r}, and your tenant has made {most}, which is "
                    "the limit (retrieval.max_collections): use one of them",
                    param="collection",
                )
            row = {"name": name, "owner": owner, "last_number": 0, "created_at": self._clock()}
            missing_only(connection, tables.collections, [row])

        await self._database.write(work)

    async def hold(self, name: str, token: str, seconds: float) -> bool:
        """Have a collection's indexes for oneself for so long, or again so long.

        Returns:
            Whether it is ours; it is somebody else's if not.

        Raises:
            NotFound: It is not registered, or no more.
        """
        now = self._clock()
        free = or_(
            collections.held_by.is_(None),
            collections.held_by == token,
            collections.held_until < now,
        )
        taken = (
            update(tables.collections)
            .where(collections.name == name, free)
            .values(held_by=token, held_until=now + seconds)
        )

        def work(connection: Connection) -> bool:
            if connection.execute(taken).rowcount:
                return True
            if _row(connection, name) is None:
                raise NotFound(f"there is no collection {name!r}", param="collection")
            return False

        return await self._database.write(work)

    async def is_held(self, name: str) -> bool:
        """Whether somebody has a collection's indexes."""
        asked = select(collections.name).where(
            collections.name == name,
            collections.held_by.is_not(None),
            collections.held_until >= self._clock(),
        )
        return bool(await self._database.read(lambda it: it.execute(asked).all()))

    async def let_go(self, name: str, token: str) -> None:
        left = (
            update(tables.collections)
            .where(collections.name == name, collections.held_by == token)
            .values(held_by=None, held_until=0.0)
        )
        await self._database.write(lambda it: it.execute(left))

    async def add(
        self,
        name: str,
        model: str,
        dimension: int,
        chunk_tokens: int,
        *,
        sparse: bool,
        vectors: str = "",
        reason: str = "",
    ) -> Index:
        """Register an index that is about to be made, under a number that none ever had."""

        def work(connection: Connection) -> Index:
            row = _row(connection, name, lock="update")
            if row is None:
                raise _unknown(name)
            number = row.last_number + 1
            connection.execute(
                update(tables.collections)
                .where(collections.name == name)
                .values(last_number=number)
            )
            made = Index(
                index_name(name, number),
                model,
                dimension,
                chunk_tokens,
                sparse,
                row.owner,
                vectors,
                reason,
            )
            _register(connection, made, "making", self._clock())
            return made

        return await self._database.write(work)

    async def number_from(self, name: str, number: int) -> None:
        """Give no index a number up to this one: there are some that are not registered."""
        above = (
            update(tables.collections)
            .where(collections.name == name, collections.last_number < number)
            .values(last_number=number)
        )
        await self._database.write(lambda it: it.execute(above))

    async def adopt(self, there: Index) -> None:
        """Register an index that is there already, and put it in force."""

        def work(connection: Connection) -> None:
            _register(connection, there, "ready", self._clock())
            connection.execute(
                update(tables.indexes).where(indexes.name == there.name).values(state="ready")
            )
            connection.execute(
                update(tables.collections)
                .where(collections.name == there.collection, collections.in_force.is_(None))
                .values(in_force=there.name)
            )

        await self._database.write(work)

    async def made(self, made: Index, *, first: bool = False) -> None:
        """An index is there now: to be filled, or, as a collection's first, in force at once.

        Raises:
            Conflict: Another one is being filled, or in force already.
        """

        def work(connection: Connection) -> None:
            row = _row(connection, made.collection, lock="update")
            if row is None or row.removing:
                raise _unknown(made.collection)
            if first and row.in_force is not None:
                raise Conflict(f"{made.collection!r} has an index already")
            connection.execute(
                update(tables.indexes).where(indexes.name == made.name).values(state="ready")
            )
            if first:
                connection.execute(
                    update(tables.collections)
                    .where(collections.name == made.collection)
                    .values(in_force=made.name)
                )
            else:
                _fill(connection, row, made.name)

        await self._database.write(work)

    async def refill(self, name: str, index: str) -> None:
        """Fill an index again that is out of force, so that it can be put back.

        Raises:
            Conflict: Another one is being filled.
            NotFound: There is no such index, or it is in force.
        """

        def work(connection: Connection) -> None:
            row = _row(connection, name, lock="update")
            there = select(indexes.name).where(
                indexes.collection == name, indexes.name == index, indexes.state == "ready"
            )
            if row is None or row.in_force == index or not connection.execute(there).all():
                raise NotFound(f"{name!r} has no index {index!r} that could be put in force")
            _fill(connection, row, index)

        await self._database.write(work)

    async def pause(self, name: str, *, paused: bool) -> None:
        """Tell whoever fills an index to wait, or to go on.

        Raises:
            NotFound: None is being filled.
        """
        told = (
            update(tables.collections)
            .where(collections.name == name, collections.filling.is_not(None))
            .values(paused=paused)
        )
        if not await self._database.write(lambda it: it.execute(told).rowcount):
            raise NotFound(f"no index of {name!r} is being filled")

    async def abort(self, name: str) -> Index:
        """Stop filling an index; it is out of force then like an old one.

        Raises:
            NotFound: None is being filled.
        """

        def work(connection: Connection) -> Index:
            row = _row(connection, name, lock="update")
            if row is None or row.filling is None:
                raise NotFound(f"no index of {name!r} is being filled")
            found = _collection(connection, name)
            assert found is not None
            assert found.filling is not None
            connection.execute(
                update(tables.collections)
                .where(collections.name == name)
                .values(filling=None, paused=False)
            )
            _retire(connection, row.filling, self._clock())
            return found.filling

        return await self._database.write(work)

    async def switch(self, name: str) -> int:
        """Put the index that is being filled in force, if it holds every document as it is now.

        Returns:
            How many documents it does not hold yet; 0 where it is in force now.

        Raises:
            NotFound: None is being filled.
        """

        def work(connection: Connection) -> int:
            # No commit of a document comes in between: each locks the same row.
            row = _row(connection, name, lock="update")
            if row is None or row.filling is None:
                raise NotFound(f"no index of {name!r} is being filled")
            if missing := count_behind(connection, name, row.filling):
                return missing
            connection.execute(
                update(tables.collections)
                .where(collections.name == name)
                .values(in_force=row.filling, filling=None, paused=False)
            )
            _retire(connection, row.in_force, self._clock())
            return 0

        return await self._database.write(work)

    async def droppable(self, name: str, grace_s: float) -> list[Index]:
        """Indexes that are out of force for longer than that, were never finished, or half dropped.

        To be asked by who holds the collection: an index that is being made is not finished.
        """

        def work(connection: Connection) -> list[Index]:
            found = _collection(connection, name)
            if found is None:
                return []
            unfinished = select(tables.indexes).where(
                indexes.collection == name, indexes.state != "ready"
            )
            left = [_index(row, found.owner) for row in connection.execute(unfinished)]
            now = self._clock()
            return left + [each for each, when in found.retired.items() if when + grace_s < now]

        return await self._database.read(work)

    async def condemn(self, index: str) -> None:
        """Nobody reads, writes or goes back to an index from now on: it is about to be dropped."""
        gone = update(tables.indexes).where(indexes.name == index).values(state="dropping")
        await self._database.write(lambda it: it.execute(gone))

    async def forget_index(self, index: str) -> None:
        """Remove an index that is no more, with what it held."""
        await self._in_parts(
            select(copies.key).where(copies.index_name == index),
            lambda keys: delete(tables.copies).where(
                copies.index_name == index, copies.key.in_(keys)
            ),
        )
        await self._database.write(
            lambda it: it.execute(delete(tables.indexes).where(indexes.name == index))
        )

    async def remove(self, name: str, only_of: str | None = None) -> list[Index] | None:
        """Begin to remove a collection: nobody finds or writes it from now on.

        Args:
            only_of: Leave it where it holds documents of other tenants than this.

        Returns:
            Its indexes, which are to be dropped before it is forgotten; `None` if it was left.
        """
        others = select(documents.key).where(
            documents.collection == name,
            documents.tenant != only_of,
            documents.state.in_(("in", "pending")),
        )

        def work(connection: Connection) -> list[Index] | None:
            # No commit of a document comes in between: each locks the same row.
            row = _row(connection, name, lock="update")
            if only_of is not None and connection.execute(others.limit(1)).all():
                return None
            connection.execute(
                update(tables.collections)
                .where(collections.name == name)
                .values(removing=True, in_force=None, filling=None)
            )
            sketches.clear(connection, name, self._clock())
            asked = select(tables.indexes).where(indexes.collection == name)
            return [_index(each, row.owner if row else "") for each in connection.execute(asked)]

        return await self._database.write(work)

    async def is_removing(self, name: str) -> bool:
        asked = select(collections.removing).where(collections.name == name)
        return bool(await self._database.read(lambda it: it.execute(asked).scalar()))

    async def forget(self, name: str) -> None:
        """Remove what is registered of a collection whose indexes are gone."""
        asked = select(indexes.name).where(indexes.collection == name)
        for index in await self._database.read(lambda it: list(it.execute(asked).scalars())):
            await self.forget_index(index)
        await self._in_parts(
            select(documents.key).where(documents.collection == name),
            lambda keys: delete(tables.documents).where(
                documents.collection == name, documents.key.in_(keys)
            ),
        )
        kept = tables.originals.c
        await self._in_parts(
            select(kept.key).where(kept.collection == name),
            lambda keys: delete(tables.originals).where(
                kept.collection == name, kept.key.in_(keys)
            ),
        )
        await self._in_parts(
            select(files.url).where(files.collection == name).distinct(),
            lambda urls: delete(tables.files).where(files.collection == name, files.url.in_(urls)),
        )
        await self._database.write(
            lambda it: it.execute(delete(tables.collections).where(collections.name == name))
        )

    async def _in_parts(self, some: Any, removal: Callable[[list[str]], Any]) -> None:
        def work(connection: Connection) -> bool:
            found = list(connection.execute(some.limit(_ROWS)).scalars())
            if found:
                connection.execute(removal(found))
            return len(found) == _ROWS

        while await self._database.write(work):
            pass


def locked(connection: Connection, name: str) -> Collection:
    """A collection that no switch comes to until the transaction is over.

    Raises:
        NotFound: There is none, or it is being removed.
    """
    _row(connection, name, lock="share")
    found = _collection(connection, name)
    if found is None or found.in_force is None:
        raise _unknown(name)
    return found


def _row(connection: Connection, name: str, lock: str = "") -> Row[Any] | None:
    asked = select(tables.collections).where(collections.name == name)
    if lock:
        asked = asked.with_for_update(read=lock == "share")
    return connection.execute(asked).one_or_none()


def _collection(connection: Connection, name: str) -> Collection | None:
    row = _row(connection, name)
    if row is None or row.removing:
        return None
    asked = select(tables.indexes).where(indexes.collection == name, indexes.state == "ready")
    found = {each.name: each for each in connection.execute(asked)}
    made = {key: _index(each, row.owner) for key, each in found.items()}
    return Collection(
        name,
        row.owner,
        made.get(row.in_force),
        made.get(row.filling),
        row.paused,
        {
            made[key]: each.retired_at
            for key, each in sorted(found.items(), key=lambda pair: pair[1].number)
            if each.retired_at is not None
        },
    )


def _index(row: Row[Any], owner: str) -> Index:
    return Index(
        row.name,
        row.model,
        row.dimension,
        row.chunk_tokens,
        row.sparse,
        owner,
        row.vector_index,
        row.vector_index_reason,
    )


def _register(connection: Connection, made: Index, state: str, now: float) -> None:
    row = {
        "name": made.name,
        "collection": made.collection,
        "number": made.version,
        "state": state,
        "model": made.model,
        "dimension": made.dimension,
        "chunk_tokens": made.chunk_tokens,
        "sparse": made.sparse,
        "vector_index": made.vectors,
        "vector_index_reason": made.reason,
        "created_at": now,
    }
    missing_only(connection, tables.indexes, [row])


def _fill(connection: Connection, row: Row[Any], index: str) -> None:
    if row.filling not in (None, index):
        raise Conflict(
            f"{row.name!r} is being reindexed already, into {row.filling!r}: wait for it, or stop "
            "it with `trivium reindex --abort`"
        )
    connection.execute(
        update(tables.collections)
        .where(collections.name == row.name)
        .values(filling=index, paused=False)
    )
    connection.execute(update(tables.indexes).where(indexes.name == index).values(retired_at=None))


def _retire(connection: Connection, index: str, now: float) -> None:
    connection.execute(
        update(tables.indexes)
        .where(and_(indexes.name == index, indexes.retired_at.is_(None)))
        .values(retired_at=now)
    )


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"there is no collection {name!r}; PUT a document into it to create it",
        param="collection",
    )
