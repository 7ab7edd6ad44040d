"""CSV and JSON Lines: a document for each row; a row that cannot be read stops no other."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator

from serve_app.domain import Document
from serve_app.errors import UnprocessableDocument
from serve_app.plain_data import json_text
from serve_app.retrieval.formats.reading import (
    OF_FILE,
    Reading,
    by_row,
    clean,
    decoded,
    groups,
    scalars,
)

_COLUMNS = {"id", "title", "text"}
_FIELDS = {*_COLUMNS, "metadata", "allow"}


def read_csv(name: str, data: bytes) -> Reading:
    text = decoded(name, data)
    # Where the comma is the decimal mark, spreadsheets separate by semicolons.
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error:
        header = []
    header = [cell.lower() if cell.lower() in _COLUMNS else cell for cell in header]
    if text.strip() and not (header and all(header) and len(set(header)) == len(header)):
        raise UnprocessableDocument(f"{name}: line 1 must name the columns, each differently")

    def rows() -> Iterator[tuple[int, Document | str]]:
        for number in itertools.count(1):
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, f"not valid CSV: {error}"
                continue
            if any(cell.strip() for cell in cells):
                yield line, _csv_row(f"{OF_FILE}#{number}", header, cells)

    return by_row(name, rows())


def _csv_row(row_id: str, header: list[str], cells: list[str]) -> Document | str:
    """The document, or what is wrong with the row."""
    if len(cells) != len(header):
        return f"{len(cells)} cells under {len(header)} columns"
    row = {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
    allow = groups(row.pop("allow", None))
    if "text" not in row:
        lines = "\n".join(f"{column}: {cell}" for column, cell in row.items() if cell)
        return Document(row_id, row.get("title") or row_id, lines, allow=allow)
    id_, title, text = row.pop("id", "") or row_id, row.pop("title", ""), row.pop("text")
    return Document(id_, title or id_, text, scalars(row), allow=allow) if text else "no text"


def read_jsonl(name: str, data: bytes) -> Reading:
    # Not `splitlines`: JSON strings may hold other line separators as they are.
    lines = enumerate(decoded(name, data).split("\n"), 1)
    return by_row(name, ((number, _json_row(line)) for number, line in lines if line.strip()))


def _json_row(line: str) -> Document | str:
    """The document, or what is wrong with the line."""
    try:
        row = json_text(line)
    except (ValueError, RecursionError) as error:
        return f"not valid JSON: {error}"
    if not isinstance(row, dict) or row.keys() - _FIELDS:
        return "not an object of id, title, text, metadata and allow"
    strings = {key: row.get(key) or "" for key in _COLUMNS}
    metadata = row.get("metadata") or {}
    if not all(isinstance(value, str) for value in strings.values()):
        return "id, title and text must be strings"
    if not isinstance(metadata, dict) or any(isinstance(v, dict | list) for v in metadata.values()):
        return "metadata must be an object of strings, numbers and booleans"
    try:
        allow = groups(row.get("allow"))
    except ValueError as error:
        return str(error)
    id_, title, text = (clean(strings[key]) for key in ("id", "title", "text"))
    if not (id_.strip() and text.strip()):
        return "id and text are required"
    return Document(id_, title if title.strip() else id_, text, scalars(metadata), allow=allow)
