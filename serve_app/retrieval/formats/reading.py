"""What a file holds, and the steps on the way there that formats share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from serve_app.domain import Document
from serve_app.errors import UnprocessableDocument
from serve_app.retrieval import blocks

# Stands in an id for the file's own, which its reader is not told. No text that was read holds it.
OF_FILE = "\0"

_LONGEST_TITLE = 1000  # bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file holds.

    Attributes:
        problems: One line for each row or page that could not be read: `faq.csv, line 12: …`.
        left_out: What else is not in the documents, and how often: `{"pictures": 2}`.
    """

    documents: list[Document]
    problems: list[str]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def losses(self, name: str) -> str:
        """What is left out, in words; empty where nothing is."""
        counted = [f"{what} ({number})" for what, number in sorted(self.left_out.items()) if number]
        return f"{name}: left out {', '.join(counted)}" if counted else ""


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
    given_title = " ".join(clean(title).split())
    heading = None if given_title else blocks.title(text)
    titles = (given_title, heading, stem)
    title = next(each for each in titles if each and len(each.encode()) <= _LONGEST_TITLE)
    return Document(str(given.pop("id", OF_FILE)), title, text, given, allow=allow)


def by_row(
    name: str, rows: Iterable[tuple[int, Document | str]], left_out: Mapping[str, int]
) -> Reading:
    """A file of many documents, from line numbers and what stands there: text is a problem."""
    reading = Reading([], [], left_out)
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
