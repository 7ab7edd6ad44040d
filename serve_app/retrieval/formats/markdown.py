"""Markdown and plain text, with optional YAML front matter."""

from __future__ import annotations

from serve_app.errors import SettingsError, UnprocessableDocument
from serve_app.plain_data import yaml_text
from serve_app.retrieval.formats.reading import Reading, decoded, scalars, whole


def read(name: str, data: bytes) -> Reading:
    text = decoded(name, data)
    head, separator, body = text[4:].partition("\n---\n")
    if not (text.startswith("---\n") and separator):
        return Reading([whole(name, "", text)], [])
    metadata = _front_matter(name, head)
    return Reading([whole(name, str(metadata.pop("title", "")), body, metadata)], [])


def _front_matter(name: str, head: str) -> dict[str, str | int | float]:
    try:
        # The line `---` is the first.
        data = yaml_text(f"\n{head}", f"{name}: front matter") or {}
    except SettingsError as error:
        raise UnprocessableDocument(str(error)) from None
    if not isinstance(data, dict):
        raise UnprocessableDocument(f"{name}: front matter must be plain `key: value` lines")
    return scalars(data)
