"""Which documents some groups may read, for queries of the registry."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Text, func, or_, true, type_coerce

from serve_app.domain import EVERY_GROUP
from serve_app.retrieval.registry import tables


def readable(groups: Sequence[str]) -> ColumnElement[bool]:
    """Of documents: they are for everybody, or for one of the groups."""
    if EVERY_GROUP in groups:
        return true()
    allow = type_coerce(tables.documents.c.allow, Text)
    # Not LIKE, for which SQLite holds "HR" and "hr" for the same.
    either = [func.replace(allow, f",{group},", "") != allow for group in groups]
    return or_(allow == "", *either)
