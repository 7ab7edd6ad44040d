"""How sources that are kept in step stand: how far each was read, when, and how often in vain."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select, update

from serve_app.database import missing_only
from serve_app.ledger import tables
from serve_app.ledger.database import Database


@dataclass(frozen=True, slots=True)
class Standing:
    """How a source stands.

    Attributes:
        seen: How far it was read, in words of its kind.
        tried_at, synced_at: When it was looked at last, and with success; Unix seconds.
        failures: Since the last success.
        problem: Why it failed last.
    """

    name: str
    seen: Mapping[str, Any] = field(default_factory=dict)
    first_at: float | None = None
    tried_at: float | None = None
    synced_at: float | None = None
    failures: int = 0
    problem: str = ""

    def lag(self, now: float) -> float | None:
        """Seconds since it was in step; None where nobody has looked at it."""
        since = self.synced_at if self.synced_at is not None else self.first_at
        return None if since is None else max(0.0, now - since)


class Sources:
    """The standings in the ledger's database.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def all(self) -> dict[str, Standing]:
        """By name."""
        c = tables.sync_sources.c
        asked = select(c.name, c.seen, c.first_at, c.tried_at, c.synced_at, c.failures, c.problem)
        return await self._database.read(
            lambda it: {row.name: Standing(*row) for row in it.execute(asked)}
        )

    async def get(self, name: str, collection: str) -> Standing:
        """How a source stands; anew where it is for another collection now."""
        c = tables.sync_sources.c
        asked = select(c.collection).where(c.name == name)
        of = await self._database.read(lambda it: it.execute(asked).scalar_one_or_none())
        found = (await self.all()).get(name, Standing(name))
        return found if of in (None, collection) else Standing(name)

    async def synced(self, name: str, collection: str, seen: Mapping[str, Any]) -> None:
        """It is in step now, as far as `seen`."""
        now = self._clock()
        values = {"synced_at": now, "failures": 0, "problem": "", "seen": dict(seen)}
        await self._put(name, collection, values, now)

    async def failed(self, name: str, collection: str, problem: str) -> None:
        """It is not: why."""
        more = {"failures": tables.sync_sources.c.failures + 1, "problem": problem[:1000]}
        await self._put(name, collection, more, self._clock())

    async def _put(self, name: str, collection: str, values: dict[str, Any], now: float) -> None:
        first = {
            "name": name,
            "collection": collection,
            "seen": {},
            "first_at": now,
            "tried_at": now,
            "failures": 0,
            "problem": "",
        }

        def work(connection: Connection) -> None:
            missing_only(connection, tables.sync_sources, [first])
            connection.execute(
                update(tables.sync_sources)
                .where(tables.sync_sources.c.name == name)
                .values(collection=collection, tried_at=now, **values)
            )

        await self._database.write(work)
