"""Which documents an index does not hold as they are now."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from serve_app.retrieval.registry import tables

documents, copies = tables.documents.c, tables.copies.c


def joined(index: str) -> Any:
    """Documents, each with its copy in an index, if there is one."""
    return tables.documents.outerjoin(
        tables.copies, and_(copies.index_name == index, copies.key == documents.key)
    )


def is_behind() -> ColumnElement[bool]:
    """Of documents joined with their copies."""
    other = or_(
        copies.version.is_(None),
        copies.version != documents.version,
        copies.since != documents.since,
        copies.until != documents.until,
    )
    there = documents.state == "in"
    return or_(and_(there, other), and_(~there, copies.version.is_not(None)))


def count_behind(connection: Connection, collection: str, index: str) -> int:
    """How many documents of a collection an index does not hold as they are."""
    asked = (
        select(func.count())
        .select_from(joined(index))
        .where(documents.collection == collection, is_behind())
    )
    return int(connection.execute(asked).scalar_one())
