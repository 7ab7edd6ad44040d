"""Tables as sources, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    create_engine,
    insert,
)
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from serve_app.errors import SettingsError, Unavailable
from serve_app.retrieval.rows import Rows
from serve_app.settings.sync import TableSource

START = datetime(2026, 1, 1, tzinfo=UTC)
ARTICLES = Table(
    "articles",
    MetaData(),
    Column("number", Integer, primary_key=True),
    Column("body", Text),
    Column("at", DateTime(timezone=True)),
    Column("price", Numeric(8, 2)),
    Column("topic", String(20)),
)


def row(number: int, minutes: int, body: str | None = None) -> dict[str, object]:
    return {
        "number": number,
        "body": f"Article {number}." if body is None else body,
        "at": START + timedelta(minutes=minutes),
        "price": Decimal("9.50"),
        "topic": None if number == 2 else "tents",
    }


async def written(address: str, rows: list[dict[str, object]]) -> str:
    """Write rows into a table of the database, and return its SQLAlchemy URL."""
    if "://" not in address:
        engine = create_engine(f"sqlite:///{address}")
        with engine.begin() as here:
            ARTICLES.metadata.create_all(here)
            here.execute(insert(ARTICLES), rows)
        engine.dispose()
        return f"sqlite:///{address}"
    there = create_async_engine(make_url(address).set(drivername="postgresql+asyncpg"))
    async with there.begin() as connection:
        await connection.run_sync(ARTICLES.metadata.create_all)
        await connection.execute(insert(ARTICLES), rows)
    await there.dispose()
    return address


def source(url: str, **fields: object) -> Rows:
    given = {"id": "number", "text": "body", "cursor": "at", "metadata": ["price", "topic"]}
    table = {"url": url, "table": "articles", **given, **fields}
    return Rows("shop", TableSource.model_validate(table))


async def test_what_changed_since_the_cursor_is_read(address: str) -> None:
    url = await written(address, [row(1, 0), row(2, 5), row(3, 5), row(4, 1, " ")])
    rows = source(url)
    (first,) = await rows.changed("")
    assert [each.id for each in first.documents] == ["shop/1", "shop/2", "shop/3"]
    assert first.problems == ["shop/4: no text"]
    assert dict(first.documents[0].metadata) == {"price": 9.5, "topic": "tents"}
    assert dict(first.documents[1].metadata) == {"price": 9.5}
    (again,) = await rows.changed(first.cursor)
    assert [each.id for each in again.documents] == ["shop/2", "shop/3"]
    await written(address, [row(5, 9)])
    (later,) = await rows.changed(again.cursor)
    assert later.documents[-1].id == "shop/5"
    assert await rows.ids() == {f"shop/{number}" for number in range(1, 6)}


async def test_a_column_that_is_not_there_is_named(address: str) -> None:
    url = await written(address, [row(1, 0)])
    with pytest.raises(SettingsError, match="nowhere"):
        await source(url, cursor="nowhere").changed("")


async def test_a_database_that_does_not_answer_is_told() -> None:
    with pytest.raises(Unavailable, match="shop"):
        await source("postgresql://ann@127.0.0.1:1/shop").ids()
