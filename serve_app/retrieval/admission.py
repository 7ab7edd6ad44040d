"""What a document must be to be taken, by whatever way it comes: over HTTP, from files, by a job.

What is taken is found again: an id can be written in a URL, and a filter can name a metadata field.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from serve_app.domain import Document
from serve_app.errors import UnprocessableDocument
from serve_app.settings import GROUP

MOST_GROUPS = 64  # that a document may be for

_MAX_ID_BYTES = 200
_MAX_TITLE_BYTES = 1000
_MAX_TIME = 64
_MAX_NAME_BYTES = 256
_MAX_METADATA_BYTES = 65_535
_LENGTH = f"must have 1 to {_MAX_ID_BYTES} bytes that are not all blanks"
_BREAKS = dict.fromkeys(map(ord, "\t\n\r"))


def check(document: Document, where: str = "document") -> None:
    """That a document fits into an index. Of its text nothing is said: chunking looks at that.

    Args:
        where: What an error calls the document.

    Raises:
        UnprocessableDocument: Its id, title, time or metadata does not fit; names which.
    """
    if not _fits(document.id):
        raise _refused(f"{where}.id", _LENGTH)
    if len(document.title.encode()) > _MAX_TITLE_BYTES:
        raise _refused(f"{where}.title", f"is longer than {_MAX_TITLE_BYTES} bytes")
    if len(document.allow) > MOST_GROUPS:
        raise _refused(f"{where}.allow", f"names more than {MOST_GROUPS} groups")
    for group in document.allow:
        if not re.fullmatch(GROUP, group):
            raise _refused(f"{where}.allow", f"{group!r} is no name of a group")
    _check_metadata(document.metadata, f"{where}.metadata")


def check_names(document: Document, where: str = "document") -> None:
    """That a document can be asked for by its id, and by each field of its metadata.

    Raises:
        UnprocessableDocument: It cannot; names which.
    """
    if problem := id_problem(document.id):
        raise _refused(f"{where}.id", problem)
    for name in document.metadata:
        if problem := name_problem(name):
            raise _refused(f"{where}.metadata", problem)


def id_problem(document_id: str) -> str | None:
    """Why no document can have this id; `None` where one can.

    Clients and proxies resolve `.` and `..` in a path, however they are encoded, and control
    characters do not pass all of them: such an id could be stored, and not be asked for.
    """
    if not _fits(document_id):
        return _LENGTH
    if has_control(document_id):
        return "holds a line break or another control character, which no URL can name"
    if {".", ".."} & set(document_id.split("/")):
        return "has a part `.` or `..`, which no URL can name"
    return None


def taken(document: Document, source: str, url: str = "") -> str | None:
    """Why a document must not replace the one of its id that was read elsewhere.

    It may where nobody looks after one of the two, and where it is the same file, found by another
    argument.

    Args:
        source, url: Of the one that is there; no url where that was not kept.
    """
    if not source or not document.source or source == document.source:
        return None
    if url:
        same = document.url == url
    else:
        same = _within(document.url or document.source, source) or _within(source, document.source)
    if same:
        return None
    return (
        f"{document.id!r} is the id of a document of {source}: give one of the two another `id`; "
        f"if it is the same one, which has moved, ingest it with --source {source}"
    )


def _within(url: str, source: str) -> bool:
    return url == source or url.startswith(source.rstrip("/") + "/") or fnmatch(url, source)


def name_problem(name: str) -> str | None:
    """Why no field of the metadata can have this name; `None` where one can."""
    if not name or len(name.encode()) > _MAX_NAME_BYTES:
        return f"the name of a field must have 1 to {_MAX_NAME_BYTES} bytes"
    # A header of a spreadsheet may go over several lines.
    if has_control(name.translate(_BREAKS)):
        return "the name of a field holds a control character, which no filter can name"
    return None


def number_problem(value: float) -> str | None:
    """Why a number cannot be kept as it is; `None` where it can. Milvus has 64 bits for one."""
    if isinstance(value, float):
        return None if math.isfinite(value) else "must be finite; NaN and infinity are no numbers"
    # Its filters know the sign apart from the digits, so -2^63 cannot be asked for.
    return None if -(2**63) < value < 2**63 else "is beyond 64 bits; send it as a text"


def has_control(text: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in text)


def moment(document: Document, where: str = "document") -> tuple[str, int]:
    """`as_of` as given, and the document's time in Unix seconds; 0 where it has none.

    Raises:
        UnprocessableDocument: It is no time; names which.
    """
    as_of = str(document.metadata.get("as_of", ""))
    for name in ("as_of", "effective_from"):
        if not (value := str(document.metadata.get(name, ""))):
            continue
        try:
            if len(value) > _MAX_TIME:
                raise ValueError
            time = datetime.datetime.fromisoformat(value)
        except ValueError:
            raise _refused(
                f"{where}.metadata.{name}", "must be an ISO 8601 time, e.g. 2026-03-14T09:30:00Z"
            ) from None
        aware = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
        return as_of, int(aware.timestamp())
    return as_of, 0


def _check_metadata(metadata: Mapping[str, Any], where: str) -> None:
    for name, value in metadata.items():
        if isinstance(value, int | float) and (problem := number_problem(value)):
            raise _refused(f"{where}.{name}", problem)
    if len(str(metadata.get("series", "")).encode()) > _MAX_ID_BYTES:
        raise _refused(f"{where}.series", f"is longer than {_MAX_ID_BYTES} bytes")
    if (
        len(json.dumps(dict(metadata), default=str, ensure_ascii=False).encode())
        > _MAX_METADATA_BYTES
    ):
        raise _refused(where, f"is longer than {_MAX_METADATA_BYTES} bytes; put it into the text")


def _fits(document_id: str) -> bool:
    return bool(document_id.strip()) and len(document_id.encode()) <= _MAX_ID_BYTES


def _refused(place: str, problem: str) -> UnprocessableDocument:
    return UnprocessableDocument(f"{place}: {problem}", param=place)
