"""Markdown and plain text, with optional YAML front matter."""

from __future__ import annotations

from serve_app.errors import SettingsError, UnprocessableDocument
from serve_app.plain_data import yaml_text
from serve_app.retrieval.formats.reading import Reading, decoded, groups, scalars, whole


def read(name: str, data: bytes) -> Reading:
    text = decoded(name, data)
    head, separator, body = text[4:].partition("\n---\n")
    if not (text.startswith("---\n") and separator):
        return Reading([whole(name, "", text)], [])
    metadata, allow = _front_matter(name, head)
    return Reading([whole(name, str(metadata.pop("title", "")), body, metadata, allow)], [])


def _front_matter(name: str, head: str) -> tuple[dict[str, str | int | float], tuple[str, ...]]:
    """The metadata, and whom the document is for."""
    try:
        # The line `---` is the first.
        data = yaml_text(f"\n{head}", f"{name}: front matter") or {}
    except SettingsError as error:
        raise UnprocessableDocument(str(error)) from None
    if not isinstance(data, dict):
        raise UnprocessableDocument(f"{name}: front matter must be plain `key: value` lines")
    try:
        allow = groups(data.pop("allow", None))
    except ValueError as error:
        raise UnprocessableDocument(f"{name}: front matter: {error}") from None
    return scalars(data), allow
