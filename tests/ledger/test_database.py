"""The tables: made once by many, and the same as the code thinks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select, text

from serve_app.database import missing_only
from serve_app.errors import SettingsError
from serve_app.ledger import tables
from serve_app.ledger.database import Database


async def test_replicas_that_start_together_make_the_tables_once(address: str) -> None:
    replicas = [Database(address) for _ in range(4)]
    await asyncio.gather(*(each.migrate() for each in replicas))
    assert await replicas[0].read(lambda it: it.execute(select(tables.answers)).all()) == []
    asked = text("SELECT version_num FROM alembic_version")
    assert len(await replicas[0].read(lambda it: it.execute(asked).all())) == 1
    for each in replicas:
        await each.close()


async def test_the_migrations_end_in_the_tables_that_the_code_knows(database: Database) -> None:
    def compare(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, tables.metadata))

    assert await database.read(compare) == []


async def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    row = {"scope": "house", "period": "2026-01"}

    def half(connection: Connection) -> None:
        missing_only(connection, tables.counters, [row])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(half)
    assert await database.read(lambda it: it.execute(select(tables.counters)).all()) == []


@pytest.mark.parametrize("address", ["mysql://ann@host/db", "postgresql//x://y", "://"])
def test_other_databases_are_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="postgresql://"):
        Database(address)


async def test_what_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    unreachable = Database("postgresql://ann@127.0.0.1:1/ledger", "hush")
    with pytest.raises(SettingsError, match=r"ledger\.database") as caught:
        await unreachable.migrate()
    assert "hush" not in caught.value.message
    folder = tmp_path / "ledger.db"
    folder.mkdir()
    with pytest.raises(SettingsError, match=r"ledger\.db"):
        await Database(str(folder)).migrate()
    (tmp_path / "text.db").write_text("this is no database, but a text that is long enough" * 99)
    with pytest.raises(SettingsError, match="not a database"):
        await Database(str(tmp_path / "text.db")).migrate()
