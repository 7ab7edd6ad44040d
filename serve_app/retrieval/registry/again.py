"""Files whose documents somebody else has deleted, replaced or lost: they are read again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, update

from serve_app.retrieval.registry import tables

_PART = 500  # files that one statement names

files = tables.files.c


def read_again(connection: Connection, collection: str, of: Iterable[Row[Any]]) -> None:
    """Let the next bulk run read the files of some documents, though they have not changed."""
    by_source: dict[tuple[str, str], list[str]] = {}
    for row in of:
        if row.url:
            by_source.setdefault((row.tenant, row.source), []).append(row.url)
    for (tenant, source), urls in by_source.items():
        for part in _parts(sorted(set(urls))):
            connection.execute(
                update(tables.files)
                .where(
                    files.collection == collection,
                    files.tenant == tenant,
                    files.source == source,
                    files.url.in_(part),
                    files.state == "in",
                )
                .values(state="pending")
            )


def _parts(urls: Sequence[str]) -> Iterable[Sequence[str]]:
    return (urls[start : start + _PART] for start in range(0, len(urls), _PART))
