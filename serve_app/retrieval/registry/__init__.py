"""The document registry: what the knowledge base is to hold, beside the index that finds it.

Milvus holds chunks. The registry says which documents there are, in which version, and in which
index each version is; so a crash, a race or a change of index can be told from what was meant, and
mended. Every change of a document goes through it (`writing`):

    claim    the document is this writer's for a while, and gets a version that nobody had
    write    its rows go to Milvus under that version, beside those of the version in force
    commit   from now on the new version is in force, everywhere at once
    release  rows of other versions have been removed; the next writer may come

A writer that dies leaves a claim behind that ends by itself. Rows of a version that was never
committed, or that is no longer in force, are told by their version and removed
(`mending`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from serve_app import database
from serve_app.database import Database
from serve_app.errors import Unavailable
from serve_app.retrieval.registry.collections import Collections
from serve_app.retrieval.registry.documents import Documents
from serve_app.retrieval.registry.meetings import Meetings
from serve_app.retrieval.registry.runs import Runs
from serve_app.retrieval.registry.sketches import Sketches
from serve_app.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

_TRIES = 5
_AGAIN = ("40001", "40P01")  # PostgreSQL has ended a transaction that another one waited for

_REGISTRY = database.Kept("retrieval.registry", "serve_app.retrieval.registry:migrations")


class _Tables(Database):
    """Opened by its first transaction; errors in our own words.

    Raises:
        Unavailable: The database does not answer.
    """

    def __init__(self, address: str, password: str) -> None:
        super().__init__(_REGISTRY, address, password)
        self._opening = asyncio.Lock()
        self._opener: asyncio.Task[object] | None = None
        self._open = False

    async def open(self) -> None:
        """Make the tables, or bring those of an earlier version up to date, once."""
        async with self._opening:
            if not self._open:
                self._opener = asyncio.current_task()
                try:
                    await self.migrate()
                finally:
                    self._opener = None
                self._open = True

    async def _transact(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        if not self._open:
            if asyncio.current_task() is self._opener:
                return await super()._transact(work, writes=writes)
            await self.open()
        for tries_left in reversed(range(_TRIES)):
            try:
                return await super()._transact(work, writes=writes)
            except (SQLAlchemyError, OSError) as error:
                cause = getattr(error, "orig", None)
                if tries_left and getattr(cause, "sqlstate", None) in _AGAIN:
                    continue
                log.error("the registry of documents cannot be used: %r", error)
                raise Unavailable(_reason(error)) from error
        raise AssertionError("the last try returns or raises")


def _reason(error: Exception) -> str:
    # As SQLite, PostgreSQL and the system say it.
    if any(full in str(error) for full in ("disk is full", "DiskFull", "No space left")):
        return "the disk of the knowledge base is full; free some space and try again"
    return "the registry of documents is not reachable; try again shortly"


class Registry:
    """All of it, in one database.

    Attributes:
        collections: Collections and their indexes.
        documents: Documents and their copies in indexes.
        runs: Files, as bulk runs list and read them.
        meetings: Documents, as bulk runs meet them in files.
        sketches: What collections speak of.

    Args:
        clock: Unix seconds.
    """

    def __init__(
        self, address: str, password: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._database = _Tables(address, password)
        self.collections = Collections(self._database, clock)
        self.documents = Documents(self._database, clock)
        self.runs = Runs(self._database, clock)
        self.meetings = Meetings(self._database, clock)
        self.sketches = Sketches(self._database, clock)

    @classmethod
    def of(cls, settings: Settings) -> Registry:
        """The registry that the settings name."""
        return cls(settings.retrieval.registry_address, settings.registry_password)

    async def open(self) -> None:
        """See now whether the database can be used; else the first use does.

        Raises:
            SettingsError: It cannot be reached, or is not ours to alter.
        """
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()
