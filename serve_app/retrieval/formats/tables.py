"""CSV and JSON Lines: a document for each row; a row that cannot be read stops no other."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator

from serve_app.domain import Document
from serve_app.errors import UnprocessableDocument
from serve_app.plain_data import json_text
from serve_app.retrieval.formats.encodings import BAD_BYTES, decoded
from serve_app.retrieval.formats.reading import OF_FILE, Reading, by_row, clean, groups, scalars

_COLUMNS = {"id", "title", "text"}
_FIELDS = {*_COLUMNS, "metadata", "allow"}
_SEPARATOR = re.compile(
    r'"?sep=(.)"?[ ,;]*', re.IGNORECASE
)  # written by spreadsheets, for themselves


def read_csv(name: str, data: bytes) -> Reading:
    text, lost = decoded(name, data)
    first, _, rest = text.partition("\n")
    skipped = 0
    if told := _SEPARATOR.fullmatch(first):
        delimiter, text, skipped = told[1], rest, 1
    else:
        # Where the comma is the decimal mark, spreadsheets separate by semicolons.
        delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = _header(reader)
    if text.strip() and not (any(header) and len(set(header)) == len(header)):
        raise UnprocessableDocument(
            f"{name}: line {1 + skipped} must name the columns, each differently"
        )

    def rows() -> Iterator[tuple[int, Document | str]]:
        for number in itertools.count(1):
            line = reader.line_num + 1 + skipped
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # Where the next row begins nobody knows.
                yield line, f"{_why(error)}; nothing from here on is read"
                return
            if any(cell.strip() for cell in cells):
                yield line, _csv_row(f"{OF_FILE}#{number}", header, cells)

    return by_row(name, rows(), {BAD_BYTES: lost})


def _header(reader: Iterator[list[str]]) -> list[str]:
    """The columns' names; one without a name is called by its place."""
    try:
        names = [cell.strip() for cell in next(reader, [])]
    except csv.Error:
        return []
    if not any(names):
        return []
    names = [name.lower() if name.lower() in _COLUMNS else name for name in names]
    return [name or f"column {place}" for place, name in enumerate(names, 1)]


def _why(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a quote is opened and never closed"
    return f"not valid CSV: {error}"


def _csv_row(row_id: str, header: list[str], cells: list[str]) -> Document | str:
    """The document, or what is wrong with the row."""
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]
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
    text, lost = decoded(name, data)
    lines = enumerate(text.split("\n"), 1)
    rows = ((number, _json_row(line)) for number, line in lines if line.strip())
    return by_row(name, rows, {BAD_BYTES: lost})


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
