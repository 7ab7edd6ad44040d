"""A table of a database: rows that changed since a cursor, and which rows there are."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import Connection, MetaData, Table, create_engine, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from serve_app.domain import Document
from serve_app.errors import SettingsError, Unavailable
from serve_app.retrieval.formats.reading import clean, groups
from serve_app.settings.sync import TableSource

T = TypeVar("T")

_PATIENCE_S = 60.0  # for one statement
_CONNECT_S = 10.0
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Changed:
    """Rows that changed.

    Attributes:
        cursor: The largest that was seen, as text; what was given, if there is no newer one.
        problems: Rows that cannot be taken, a line each.
    """

    documents: list[Document]
    cursor: str
    problems: list[str]


class Rows:
    """The rows of a source.

    Every method raises `SettingsError` where there is no such table or column, and `Unavailable`
    where the database does not answer.
    """

    def __init__(self, name: str, source: TableSource) -> None:
        self._name = name
        self._source = source

    async def changed(self, cursor: str) -> list[Changed]:
        """Rows whose cursor is not below the one given, or all of them, in pages."""
        return await self._read(lambda connection: list(self._changed(connection, cursor)))

    async def ids(self) -> set[str]:
        """Ids of the documents of all rows."""

        def work(connection: Connection) -> set[str]:
            column = self._table(connection).c[self._source.id]
            found = connection.execution_options(yield_per=_PAGE).execute(select(column)).scalars()
            return {self._id(each) for each in found}

        return await self._read(work)

    def _changed(self, connection: Connection, cursor: str) -> Iterator[Changed]:
        source, table = self._source, self._table(connection)
        wanted = dict.fromkeys(
            name
            for name in (
                source.id,
                source.text,
                source.title,
                source.cursor,
                source.allow,
                *source.metadata,
            )
            if name
        )
        asked = select(*(table.c[name] for name in wanted))
        if source.cursor:
            column = table.c[source.cursor]
            asked = asked.order_by(column, table.c[source.id])
            if cursor:
                # Others may have been written in the same moment as the last one.
                asked = asked.where(column >= _typed(cursor, column.type.python_type))
        found = connection.execution_options(yield_per=_PAGE).execute(asked).mappings()
        for part in found.partitions(_PAGE):
            last = part[-1][source.cursor] if source.cursor else None
            cursor = cursor if last is None else _text(last)
            yield self._documents(part, cursor)

    def _documents(self, rows: Sequence[Any], cursor: str) -> Changed:
        source = self._source
        made = Changed([], cursor, [])
        for row in rows:
            id_, text = self._id(row[source.id]), clean(_text(row[source.text]))
            if not text.strip():
                made.problems.append(f"{id_}: no text")
                continue
            title = clean(_text(row[source.title])) if source.title else ""
            metadata = {
                name: _scalar(row[name]) for name in source.metadata if row[name] is not None
            }
            allow = groups(_text(row[source.allow])) if source.allow else ()
            document = Document(id_, title or id_, text, metadata, allow=allow)
            made.documents.append(document)
        return made

    def _id(self, value: Any) -> str:
        return f"{self._name}/{_text(value)}"

    def _table(self, connection: Connection) -> Table:
        schema, _, name = self._source.table.rpartition(".")
        try:
            table = Table(name, MetaData(), schema=schema or None, autoload_with=connection)
        except SQLAlchemyError:
            raise SettingsError(f"there is no table {self._source.table!r}") from None
        named = [self._source.id, self._source.text, *self._source.metadata]
        named += [n for n in (self._source.title, self._source.cursor, self._source.allow) if n]
        for column in named:
            if column not in table.c:
                raise SettingsError(f"{self._source.table!r} has no column {column!r}")
        return table

    async def _read(self, work: Callable[[Connection], T]) -> T:
        url = make_url(self._source.url)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                if url.get_backend_name() == "sqlite":
                    return await asyncio.to_thread(_here, url, work)
                return await _there(url, self._source.password.get_secret_value(), work)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"the database of {self._name!r} cannot be read ({type(error).__name__}): see "
                "whether it runs, and whether sync.sources names it rightly"
            ) from error


def _here(url: URL, work: Callable[[Connection], T]) -> T:
    engine = create_engine(url, connect_args={"timeout": _CONNECT_S})
    try:
        with engine.connect() as connection:
            return work(connection)
    finally:
        engine.dispose()


async def _there(url: URL, password: str, work: Callable[[Connection], T]) -> T:
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg", password=password or None),
        connect_args={"timeout": _CONNECT_S, "command_timeout": _PATIENCE_S},
    )
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


def _scalar(value: Any) -> str | int | float | bool:
    if isinstance(value, Decimal):
        return float(value)
    return value if isinstance(value, str | int | float | bool) else _text(value)


def _typed(cursor: str, kind: type[Any]) -> Any:
    """A cursor as its column has it."""
    if issubclass(kind, datetime.datetime | datetime.date):
        return kind.fromisoformat(cursor)
    return kind(cursor)
