"""Files to documents: Markdown, text, HTML, PDF, DOCX, CSV and JSON Lines, told by their suffix.

What comes in may be hostile: nothing is inflated beyond a bound, no alias is followed, and what a
parser trips over becomes an `UnprocessableDocument` that names the file.
"""

from __future__ import annotations

from dataclasses import replace

from serve_app.domain import Document
from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.formats import markdown, pdf, tables, web, word
from serve_app.retrieval.formats.reading import OF_FILE, Reading, clean, last_part

__all__ = ["SUFFIXES", "Reading", "read"]

_READERS = {
    **dict.fromkeys((".md", ".markdown", ".txt"), markdown.read),
    **dict.fromkeys((".html", ".htm"), web.read),
    ".pdf": pdf.read,
    ".docx": word.read,
    ".csv": tables.read_csv,
    ".jsonl": tables.read_jsonl,
}
SUFFIXES: tuple[str, ...] = tuple(_READERS)


def read(name: str, data: bytes, stem: str = "") -> Reading:
    """Read one file.

    Args:
        name: Path or URL; its last part gives the format, and the title when nothing else does.
        stem: The id of what names none itself; by default the last part of `name`.

    Raises:
        UnprocessableDocument: Unknown format, damaged, locked, or without text; says what to do.
    """
    suffix = last_part(name).suffix.lower()
    if suffix not in _READERS:
        raise UnprocessableDocument(f"{name}: its name must end in one of {', '.join(SUFFIXES)}")
    read = _READERS[suffix](name, data)
    own = clean(stem) or clean(last_part(name).stem)
    return replace(read, documents=[_named(each, own) for each in read.documents])


def _named(document: Document, stem: str) -> Document:
    named = {part: getattr(document, part).replace(OF_FILE, stem) for part in ("id", "title")}
    return replace(document, **named)
