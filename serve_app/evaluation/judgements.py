"""What retrieval is measured on: documents, and queries of which people said what answers them.

Both are JSONL. Documents are `{"id","title","text","metadata"?}`; queries are
`{"id","query","relevant"}`, where `relevant` lists ids of documents. Other fields of a query are
ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.domain import Document
from serve_app.errors import SettingsError, UnprocessableDocument
from serve_app.jsonl import objects
from serve_app.retrieval import formats


@dataclass(frozen=True, slots=True)
class Query:
    """A question, and the ids of the documents that answer it (one or more)."""

    id: str
    text: str
    relevant: frozenset[str]


@dataclass(frozen=True, slots=True)
class Judgements:
    """A test collection.

    Attributes:
        blank: Ids of documents without text. Nothing can find them, which counts as a miss
            wherever one is relevant, as it does in published figures (Cranfield has two).
    """

    documents: list[Document]
    queries: list[Query]
    blank: frozenset[str]


def read(documents: Path, queries: Path) -> Judgements:
    """Read a test collection.

    Raises:
        SettingsError: A file cannot be read, a query is malformed, an id stands twice, or a query
            names a document that is not there; says which line or id.
        UnprocessableDocument: A document is malformed; names file and line.
    """
    found, blank = _documents(documents)
    return Judgements(found, _queries(queries, {each.id for each in found} | blank), blank)


def _documents(path: Path) -> tuple[list[Document], frozenset[str]]:
    lines = _data(path).split(b"\n")
    blank = {number: name for number, line in enumerate(lines) if (name := _blank(line))}
    # An empty line in its place keeps the numbers of the others.
    rest = b"\n".join(b"" if number in blank else line for number, line in enumerate(lines))
    reading = formats.read(str(path), rest)
    if reading.problems:
        raise UnprocessableDocument(reading.problems[0])
    _check_unique(path, [*(each.id for each in reading.documents), *blank.values()])
    return reading.documents, frozenset(blank.values())


def _blank(line: bytes) -> str | None:
    """The id of a document that says itself that it has no text."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return None
    text = row.get("text")
    return row["id"] if isinstance(text, str) and not text.strip() else None


def _queries(path: Path, documents: set[str]) -> list[Query]:
    queries = []
    for number, row in objects(path, '{"id","query","relevant"}'):
        try:
            query = _query(row)
        except ValueError as error:
            raise SettingsError(f"{path}:{number}: {error}") from None
        if strange := sorted(query.relevant - documents):
            raise SettingsError(
                f"{path}:{number}: query {query.id!r} names {strange[0]!r} as relevant, "
                "which is not among the documents"
            )
        queries.append(query)
    if not queries:
        raise SettingsError(f'{path}: holds no queries; each line is {{"id","query","relevant"}}')
    _check_unique(path, (each.id for each in queries))
    return queries


def _query(row: Mapping[str, Any]) -> Query:
    """One row.

    Raises:
        ValueError: It is malformed; says how.
    """
    name, text, relevant = (row.get(field) for field in ("id", "query", "relevant"))
    if not (isinstance(name, str) and name.strip()):
        raise ValueError("id must be a text that is not empty")
    if not (isinstance(text, str) and text.strip()):
        raise ValueError("query must be a text that is not empty")
    if not (isinstance(relevant, list) and relevant and all(isinstance(x, str) for x in relevant)):
        raise ValueError("relevant must be a list of one or more document ids")
    return Query(name, text, frozenset(relevant))


def _check_unique(path: Path, ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise SettingsError(f"{path}: the id {name!r} stands twice")
        seen.add(name)


def _data(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
