"""Where tables are kept: one SQLite file, or PostgreSQL when more than one machine writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from serve_app.errors import SettingsError

T = TypeVar("T")

_PATIENCE_S = 5.0
_MIGRATING = 0x747269766975  # any number that nobody else locks by: "triviu"


@dataclass(frozen=True, slots=True)
class Kept:
    """Which tables a database keeps.

    Attributes:
        setting: Names the database to whoever has to set it: `ledger.database`.
        migrations: Where Alembic finds their history: `package:folder`.
    """

    setting: str
    migrations: str


class Database:
    """Transactions on tables, in any process and from many at once.

    What a transaction does is a plain function of a connection, for both databases. On SQLite it
    runs in a thread, whole: a hop to the thread for each statement costs more than the statement.

    Args:
        address: Path of a SQLite file, or `postgresql://user@host:port/name`.
        password: Of the PostgreSQL user.

    Raises:
        SettingsError: The address is neither.
    """

    def __init__(self, kept: Kept, address: str, password: str = "") -> None:
        self._kept = kept
        self._url = _url(kept.setting, address, password)
        self._engine = _engine(self._url)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Do something in a transaction that nobody else's changes come into."""
        return await self._transact(work, writes=True)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Do something on a consistent view, which holds up no writer."""
        return await self._transact(work, writes=False)

    async def migrate(self) -> None:
        """Make the tables, or bring those of an earlier version up to date. Nothing is lost.

        Raises:
            SettingsError: The database cannot be reached, or is not ours to alter.
        """
        if self._url.database and isinstance(self._engine, Engine):
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        try:
            await self.write(partial(_upgrade, self._kept.migrations))
        except (SQLAlchemyError, OSError) as error:
            # The URL is rendered without its password.
            raise SettingsError(
                f"{self._kept.setting}: {self._url} cannot be used: {_reason(error)}"
            ) from None

    async def close(self) -> None:
        if isinstance(self._engine, AsyncEngine):
            await self._engine.dispose()
        else:
            self._engine.dispose()

    async def _transact(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        engine = self._engine
        if isinstance(engine, AsyncEngine):
            # Statements that lock must see what was committed before they could; others one moment.
            level = "READ COMMITTED" if writes else "REPEATABLE READ"
            async with engine.execution_options(isolation_level=level).begin() as connection:
                return await connection.run_sync(work)

        def whole() -> T:
            with engine.begin() as connection:
                # Here, as a listener to an engine has every statement look for listeners. One that
                # reads first and then writes must hold the write lock from the start.
                connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
                return work(connection)

        return await asyncio.to_thread(whole)


def missing_only(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, and leave those alone whose key is there.

    Args:
        rows: Of the same columns.
    """
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    if rows:
        # One statement with all of them would have to be compiled anew each time.
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)


def _upgrade(migrations: str, connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # One replica at a time; on SQLite the write lock sees to it.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
    config = Config()
    config.set_main_option("script_location", migrations)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _url(setting: str, address: str, password: str) -> URL:
    if "://" not in address:
        return URL.create("sqlite", database=address)
    try:
        url = make_url(address)
    except ArgumentError:
        url = None
    if url is None or url.get_backend_name() != "postgresql":
        raise SettingsError(
            f"{setting} must be the path of a SQLite file, or postgresql://user@host/name"
        )
    return url.set(drivername="postgresql+asyncpg", password=password or None)


def _engine(url: URL) -> AsyncEngine | Engine:
    if url.get_backend_name() == "postgresql":
        return create_async_engine(
            url,
            pool_pre_ping=True,
            pool_timeout=_PATIENCE_S,
            connect_args={"timeout": _PATIENCE_S, "command_timeout": _PATIENCE_S},
        )
    engine = create_engine(url, pool_timeout=_PATIENCE_S, connect_args={"timeout": _PATIENCE_S})

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        # Its driver would begin transactions of its own, too late (sqlite3, "transaction control").
        connection.isolation_level = None
        cursor = connection.cursor()
        # Readers and the writer do not wait for each other; a commit outlives our own death, which
        # does not take a wait for the disk, though not a power cut in the same instant.
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    return engine


def _reason(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
