"""Sketches of what collections speak of, as they are kept for the router."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, or_, select, update

from serve_app.database import Database, missing_only
from serve_app.retrieval.registry import claims, tables
from serve_app.retrieval.registry.entries import Entry

sketches, documents = tables.sketches.c, tables.documents.c


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sketch as it is kept.

    Attributes:
        version: Counts up with each change of it.
        content: `Sketch.to_bytes`; none where the tenant has nothing in the collection.
        drawn_to: The latest change of a document that is in it, Unix seconds.
        stale: Documents of which it still holds what they were.
        model: Version of the model of its vectors.
        kept_at: When it was put here, Unix seconds.
    """

    version: int
    content: bytes | None
    drawn_to: float
    stale: int
    model: str
    kept_at: float = 0.0


_NEVER = Drawn(0, None, 0.0, 0, "")


@dataclass(frozen=True, slots=True)
class Due:
    """A tenant's part of a collection whose sketch is behind: its latest change is not in it."""

    collection: str
    tenant: str
    latest: float


def clear(connection: Connection, collection: str, now: float) -> None:
    """A collection is to be removed: nobody is to look there from now on."""
    connection.execute(
        update(tables.sketches)
        .where(sketches.collection == collection)
        .values(content=None, version=sketches.version + 1, kept_at=now)
    )


class Sketches:
    """Every method is one transaction."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def due(self, since: float, model: str) -> list[Due]:
        """What has changed since a moment and is not drawn, or by another model."""
        latest = func.max(documents.updated_at).label("latest")
        same = and_(
            sketches.collection == documents.collection, sketches.tenant == documents.tenant
        )
        asked = (
            select(documents.collection, documents.tenant, latest)
            .select_from(tables.documents.outerjoin(tables.sketches, same))
            .where(documents.updated_at >= since)
            .group_by(documents.collection, documents.tenant, sketches.drawn_to, sketches.model)
            .having(
                or_(
                    sketches.drawn_to.is_(None),
                    latest > sketches.drawn_to,
                    sketches.model != model,
                )
            )
        )
        found = await self._database.read(lambda it: it.execute(asked).all())
        return [Due(*row) for row in found]

    async def hold(self, due: Due, seconds: float) -> Drawn | None:
        """Have a sketch for oneself for so long, and what it is now; `None` if another has it."""
        now = self._clock()
        row = {"collection": due.collection, "tenant": due.tenant, "version": 0, "drawn_to": 0.0}
        mine = and_(sketches.collection == due.collection, sketches.tenant == due.tenant)

        def work(connection: Connection) -> Drawn | None:
            missing_only(
                connection,
                tables.sketches,
                [{**row, "stale": 0, "kept_at": 0.0, "held_until": 0.0}],
            )
            taken = connection.execute(
                update(tables.sketches)
                .where(mine, sketches.held_until < now)
                .values(held_until=now + seconds)
            )
            if not taken.rowcount:
                return None
            return _drawn(connection.execute(select(tables.sketches).where(mine)).one())

        return await self._database.write(work)

    async def keep(self, due: Due, before: Drawn, drawn: Drawn) -> None:
        """Put a sketch in the place of the one before, if that is still there, and let go of it."""
        change = (
            update(tables.sketches)
            .where(
                sketches.collection == due.collection,
                sketches.tenant == due.tenant,
                sketches.version == before.version,
            )
            .values(
                version=drawn.version,
                content=drawn.content,
                drawn_to=drawn.drawn_to,
                stale=drawn.stale,
                model=drawn.model,
                kept_at=self._clock(),
                held_until=0.0,
            )
        )
        await self._database.write(lambda it: it.execute(change))

    async def changed(self, since: float) -> tuple[float, list[tuple[str, str, int]]]:
        """Collections and tenants whose sketches have changed since a moment, with their versions;
        and the moment of this answer, for the next call."""
        now = self._clock()
        asked = select(sketches.collection, sketches.tenant, sketches.version).where(
            sketches.kept_at >= since
        )
        found = await self._database.read(lambda it: it.execute(asked).all())
        return now, [(collection, tenant, version) for collection, tenant, version in found]

    async def get(self, collection: str, tenants: Sequence[str]) -> dict[str, Drawn]:
        """Those of tenants; of one without, an empty one."""

        def work(connection: Connection) -> dict[str, Drawn]:
            found = dict.fromkeys(tenants, _NEVER)
            for part in claims.parts(tenants):
                asked = select(tables.sketches).where(
                    sketches.collection == collection, sketches.tenant.in_(part)
                )
                for row in connection.execute(asked):
                    found[row.tenant] = _drawn(row)
            return found

        return await self._database.read(work)

    async def changes(self, due: Due, after: tuple[float, str], limit: int) -> Sequence[Entry]:
        """A tenant's documents of everybody's, in the order of their changes, behind a change (its
        time and the document's key), at most so many."""
        when, key = after
        later = or_(
            documents.updated_at > when, and_(documents.updated_at == when, documents.key > key)
        )
        asked = (
            select(tables.documents)
            .where(
                documents.collection == due.collection,
                documents.tenant == due.tenant,
                documents.updated_at >= when,
                later,
            )
            .order_by(documents.updated_at, documents.key)
            .limit(limit)
        )
        return await self._database.read(lambda it: [claims.entry(r) for r in it.execute(asked)])


def _drawn(row: Row[Any]) -> Drawn:
    return Drawn(row.version, row.content, row.drawn_to, row.stale, row.model, row.kept_at)
