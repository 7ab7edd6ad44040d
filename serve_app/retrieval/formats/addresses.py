"""What is at an address, as a document: its id, and the name that says what kind of file it is."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from serve_app.retrieval.formats import SUFFIXES

_MOST_ID_BYTES = 200
_KINDS = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "text/markdown": ".md",
    "text/plain": ".txt",
    "text/csv": ".csv",
    "application/pdf": ".pdf",
    "application/jsonl": ".jsonl",
    "application/x-ndjson": ".jsonl",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
}


def document_id(url: str) -> str:
    """The id of what is at an address: the address without its scheme."""
    parts = urlsplit(url)
    path = unquote(parts.path) or "/"
    name = f"{parts.netloc}{path}{f'?{parts.query}' if parts.query else ''}"
    if len(name.encode()) <= _MOST_ID_BYTES:
        return name
    # The end tells more than the beginning, and the hash whatever both leave out.
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    room = _MOST_ID_BYTES - len(digest) - 1
    return f"{digest}-{name.encode()[-room:].decode('utf-8', 'ignore')}"


def file_name(url: str, kind: str) -> str:
    """An address as the name of a file, whose suffix says what it is."""
    parts = urlsplit(url)
    name = f"{parts.netloc}{parts.path}".rstrip("/")
    suffix = _KINDS.get(kind, "")
    # What a host says of a text is often wrong; a suffix that we read is meant.
    if PurePosixPath(parts.path).suffix.lower() in SUFFIXES or not suffix:
        return name
    return name + suffix
