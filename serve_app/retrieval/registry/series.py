"""When each version of a series is in force: from its time until the next one's.

The earliest one is in force before its time too. A document of no series always is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    func,
    or_,
    select,
    update,
)

from serve_app.retrieval.registry import tables
from serve_app.retrieval.registry.entries import FOR_EVER, Facts

documents = tables.documents.c


def bounds(connection: Connection, collection: str, facts: Facts) -> tuple[int, int]:
    """When a document is in force among what is in force of its series now: half-open."""
    if not facts.series:
        return 0, FOR_EVER
    since = facts.time if _before(connection, collection, facts) else 0
    following = _after(connection, collection, facts)
    return since, following.time if following else FOR_EVER


def lock(connection: Connection, collection: str, touched: Iterable[Facts]) -> None:
    """Let nobody else set when versions of the same series are in force until the transaction is
    over: two that do not see each other would both be the latest. SQLite has one writer anyway."""
    if connection.dialect.name != "postgresql":
        return
    named = {(collection, each.tenant, each.series) for each in touched if each.series}
    digests = sorted(hashlib.sha256(repr(each).encode()).digest()[:8] for each in named)
    for digest in digests:
        number = int.from_bytes(digest, "big", signed=True)
        connection.execute(select(func.pg_advisory_xact_lock(number)))


def redate(
    connection: Connection, collection: str, touched: Iterable[Facts], written: set[str]
) -> list[str]:
    """Set anew when documents are in force, beside those that came, changed or went.

    To be done under `lock`.

    Args:
        touched: What came, and what was before it.
        written: Keys of those whose rows have been written just now.

    Returns:
        Keys of documents whose rows say otherwise. Those that nobody has are marked to be mended.
    """
    affected: dict[str, Row[Any]] = {}
    for facts in touched:
        if facts.series:
            found = (
                _at(connection, collection, facts.key),
                _before(connection, collection, facts),
                _after(connection, collection, facts),
            )
            affected |= {row.key: row for row in found if row is not None}
    late = []
    for key, row in affected.items():
        place = Facts(row.tenant, row.id, time=row.time, series=row.series)
        since, until = bounds(connection, collection, place)
        if (row.since, row.until) == (since, until):
            continue
        connection.execute(
            update(tables.documents)
            .where(documents.collection == collection, documents.key == key)
            .values(since=since, until=until)
        )
        if key not in written:
            late.append(key)
    # Whoever has one of them finds out when giving it up.
    connection.execute(
        update(tables.documents)
        .where(
            documents.collection == collection, documents.key.in_(late), documents.claim.is_(None)
        )
        .values(claim="", claimed_until=0.0, intent="copy")
    )
    return late


def _at(connection: Connection, collection: str, key: str) -> Row[Any] | None:
    asked = select(tables.documents).where(
        documents.collection == collection, documents.key == key, documents.state == "in"
    )
    return connection.execute(asked).one_or_none()


def _before(connection: Connection, collection: str, facts: Facts) -> Row[Any] | None:
    earlier = or_(
        documents.time < facts.time,
        and_(documents.time == facts.time, documents.id < facts.id),
    )
    asked = _series(collection, facts, earlier)
    latest = asked.order_by(documents.time.desc(), documents.id.desc()).limit(1)
    return connection.execute(latest).one_or_none()


def _after(connection: Connection, collection: str, facts: Facts) -> Row[Any] | None:
    later = or_(
        documents.time > facts.time,
        and_(documents.time == facts.time, documents.id > facts.id),
    )
    asked = _series(collection, facts, later)
    first = asked.order_by(documents.time, documents.id).limit(1)
    return connection.execute(first).one_or_none()


def _series(collection: str, facts: Facts, place: ColumnElement[bool]) -> Select[Any]:
    return select(tables.documents).where(
        documents.collection == collection,
        documents.tenant == facts.tenant,
        documents.series == facts.series,
        documents.state == "in",
        tables.HAS_SERIES,
        place,
    )
