"""Where the ledger is kept: one SQLite file, or PostgreSQL when more than one machine writes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Executable, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from serve_app.errors import SettingsError

_PATIENCE_S = 5.0
_MIGRATING = 0x747269766975  # any number that nobody else locks by: "triviu"


class Database:
    """Transactions on the ledger's tables, in any process and from many at once.

    Args:
        address: Path of a SQLite file, or `postgresql://user@host:port/name`.
        password: Of the PostgreSQL user.
    """

    def __init__(self, address: str, password: str = "") -> None:
        self._url = _url(address, password)
        self._engine = _engine(self._url)

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that nobody else's changes come into."""
        async with self._engine.connect() as connection:
            await connection.execution_options(trivium_writes=True)
            async with connection.begin():
                yield connection

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view, which holds up no writer."""
        async with self._engine.connect() as connection:
            yield connection

    async def migrate(self) -> None:
        """Make the tables, or bring those of an earlier version up to date. Nothing is lost.

        Raises:
            SettingsError: The database cannot be reached, or is not ours to alter.
        """
        config = Config()
        config.set_main_option("script_location", "serve_app.ledger:migrations")

        def upgrade(connection: Connection) -> None:
            if connection.dialect.name == "postgresql":
                # One replica at a time; on SQLite the write lock sees to it.
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

        if self._url.database and self._url.get_backend_name() == "sqlite":
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        try:
            async with self.writing() as connection:
                await connection.run_sync(upgrade)
        except (SQLAlchemyError, OSError) as error:
            # The URL is rendered without its password.
            raise SettingsError(
                f"ledger.database: {self._url} cannot be used: {_reason(error)}"
            ) from None

    def missing_only(self, table: Table, rows: list[dict[str, Any]]) -> Executable:
        """An insert that leaves rows alone whose key is there."""
        dialect: Any = sqlite if self._url.get_backend_name() == "sqlite" else postgresql
        statement: Executable = dialect.insert(table).values(rows).on_conflict_do_nothing()
        return statement

    async def close(self) -> None:
        await self._engine.dispose()


def _url(address: str, password: str) -> URL:
    if "://" not in address:
        return URL.create("sqlite+aiosqlite", database=address)
    try:
        url = make_url(address)
    except ArgumentError:
        url = None
    if url is None or url.get_backend_name() != "postgresql":
        raise SettingsError(
            "ledger.database must be the path of a SQLite file, or postgresql://user@host/name"
        )
    return url.set(drivername="postgresql+asyncpg", password=password or None)


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "postgresql":
        return create_async_engine(
            url,
            pool_pre_ping=True,
            connect_args={"timeout": _PATIENCE_S, "command_timeout": _PATIENCE_S},
        )
    engine = create_async_engine(url, connect_args={"timeout": _PATIENCE_S})

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        # Its driver would begin transactions of its own, too late (sqlite3, "transaction control").
        connection.isolation_level = None
        cursor = connection.cursor()
        # Readers and the writer do not wait for each other; a commit outlives our own death, which
        # does not take a wait for the disk, though not a power cut in the same instant.
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        # A transaction that reads first and then writes must hold the write lock from the start.
        writes = connection.get_execution_options().get("trivium_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _reason(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
