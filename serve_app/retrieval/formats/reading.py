"""What a file holds, and the steps on the way there that formats share."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from serve_app.domain import Document
from serve_app.errors import UnprocessableDocument

# Stands in an id for the file's own, which its reader is not told. No text that was read holds it.
OF_FILE = "\0"

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file holds.

    Attributes:
        problems: One line for each row or page that could not be read: `faq.csv, line 12: …`.
    """

    documents: list[Document]
    problems: list[str]


def last_part(name: str) -> PurePosixPath:
    return PurePosixPath(re.split(r"[?#]", name)[0] if "://" in name else name)


def whole(
    name: str,
    title: str,
    text: str,
    metadata: Mapping[str, Any] | None = None,
    allow: tuple[str, ...] = (),
) -> Document:
    """A file that is one document. The first heading, then the stem stand in for a title."""
    text, stem, given = clean(text), clean(last_part(name).stem), dict(metadata or {})
    if not text.strip():
        raise UnprocessableDocument(f"{name}: holds no text")
    title = " ".join(clean(title).split()) or _first_heading(text) or stem
    id_ = str(given.pop("id", OF_FILE))
    return Document(id_, title, text, given, allow=allow)


def by_row(name: str, rows: Iterable[tuple[int, Document | str]]) -> Reading:
    """A file of many documents, from line numbers and what stands there: text is a problem."""
    reading = Reading([], [])
    for line, row in rows:
        if isinstance(row, Document):
            reading.documents.append(row)
        else:
            reading.problems.append(f"{name}, line {line}: {row}")
    if not reading.documents:
        first = f"; the first problem: {reading.problems[0]}" if reading.problems else ""
        raise UnprocessableDocument(f"{name}: holds no text that can be read{first}")
    return reading


def groups(allow: Any) -> tuple[str, ...]:
    """Whom a document is for: a list of groups, or their names with commas between.

    Raises:
        ValueError: It is neither. What was meant for a few must not become everybody's.
    """
    names = allow.split(",") if isinstance(allow, str) else [] if allow is None else allow
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("allow must be a list of groups")
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def scalars(metadata: Mapping[Any, Any]) -> dict[str, str | int | float]:
    """Numbers that a JSON column can hold stay; the rest becomes text, and blank text goes."""
    return {
        clean(str(key)): value
        if isinstance(value, int | float) and abs(value) < 2**63
        else clean(str(value))
        for key, value in metadata.items()
        if value is not None and clean(str(value)).strip()
    }


def clean(text: str) -> str:
    """Without what no store takes: NULs and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _first_heading(text: str) -> str | None:
    lines = (line.strip() for line in text.splitlines())
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("# ")), None)


def decoded(name: str, data: bytes) -> str:
    """UTF-8, or UTF-16 that says so, with `\\n` line ends."""
    try:
        text = data.decode("utf-16" if data.startswith(_UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError:
        raise UnprocessableDocument(f"{name}: not UTF-8 text; convert it first") from None
    if "\0" in text:
        raise UnprocessableDocument(f"{name}: binary data, not text; save it as UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n")
