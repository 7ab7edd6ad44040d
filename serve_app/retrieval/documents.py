"""Files to documents. Markdown and text, with optional YAML front matter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from serve_app.domain import Document
from serve_app.errors import UnprocessableDocument

SUFFIXES = (".md", ".markdown", ".txt")


def discover(paths: list[Path]) -> list[Path]:
    """Files to ingest: each path itself, or what lies below it, sorted.

    Raises:
        UnprocessableDocument: A path does not exist, or holds nothing that can be read.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not files:
                raise UnprocessableDocument(f"{path}: no {', '.join(SUFFIXES)} files below it")
            found += files
        elif path.is_file():
            found.append(path)
        else:
            raise UnprocessableDocument(f"{path}: no such file or folder")
    return found


def read(path: Path) -> Document:
    """Read one file. Front matter gives `id`, `title` and metadata; else the file name does.

    Raises:
        UnprocessableDocument: Not UTF-8 text, empty, or front matter that is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UnprocessableDocument(f"{path}: not UTF-8 text; convert it first") from None
    except OSError as error:
        raise UnprocessableDocument(f"{path}: cannot be read: {error.strerror}") from None
    metadata, body = _front_matter(text, path)
    if not body.strip():
        raise UnprocessableDocument(f"{path}: holds no text")
    title = str(metadata.pop("title", "") or _first_heading(body) or path.stem)
    return Document(
        id=str(metadata.pop("id", path.stem)), title=title, text=body, metadata=metadata
    )


def _front_matter(text: str, path: Path) -> tuple[dict[str, Any], str]:
    if not text.startswith("---\n"):
        return {}, text
    head, separator, body = text[4:].partition("\n---\n")
    if not separator:
        return {}, text
    try:
        data = yaml.safe_load(head) or {}
    except yaml.YAMLError:
        raise UnprocessableDocument(f"{path}: front matter is not valid YAML") from None
    if not isinstance(data, dict):
        raise UnprocessableDocument(f"{path}: front matter must be `key: value` lines")
    return {
        str(key): value if isinstance(value, int | float | bool) else str(value)
        for key, value in data.items()
        if value is not None and str(value).strip()
    }, body


def _first_heading(body: str) -> str | None:
    lines: Iterator[str] = (line.strip() for line in body.splitlines())
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("# ")), None)
