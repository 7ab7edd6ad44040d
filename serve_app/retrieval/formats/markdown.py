"""Markdown and plain text, with optional YAML front matter."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any

import yaml

from serve_app.errors import SettingsError, UnprocessableDocument
from serve_app.plain_data import yaml_text
from serve_app.retrieval.formats.encodings import BAD_BYTES, decoded
from serve_app.retrieval.formats.reading import Reading, groups, scalars, whole

# Before a blank line it is a rule, not the beginning of data.
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?=[^\n]*\S)(.*?\n)---[ \t]*(?:\n|\Z)", re.DOTALL)

Front = tuple[dict[str, str | int | float], tuple[str, ...]]


def read(name: str, data: bytes) -> Reading:
    text, lost = decoded(name, data)
    metadata: dict[str, str | int | float] = {}
    allow: tuple[str, ...] = ()
    front = _FRONT_MATTER.match(text)
    if front and (found := _front_matter(name, front[1])) is not None:
        (metadata, allow), text = found, text[front.end() :]
    title = str(metadata.pop("title", ""))
    return Reading([whole(name, title, text, metadata, allow)], [], {BAD_BYTES: lost})


def _front_matter(name: str, head: str) -> Front | None:
    """The metadata, and whom the document is for; none where it is text between two rules."""
    try:
        # The line `---` is the first.
        data = yaml_text(f"\n{head}", f"{name}: front matter")
    except SettingsError as error:
        raise UnprocessableDocument(str(error)) from None
    if isinstance(data, str) or (data is None and head.strip()):
        return None
    if not isinstance(data, dict | None):
        raise UnprocessableDocument(f"{name}: front matter must be plain `key: value` lines")
    data = data or {}
    try:
        allow = groups(data.pop("allow", None))
    except ValueError as error:
        raise UnprocessableDocument(f"{name}: front matter: {error}") from None
    return scalars(_as_written(head, data)), allow


def _as_written(head: str, data: dict[str, Any]) -> dict[str, Any]:
    """Values, but for those that YAML takes for something whose writing differs: `007`, `1.10`."""
    node = yaml.compose(head, Loader=yaml.SafeLoader)
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    written = {
        key.value: value.value
        for key, value in pairs
        if isinstance(value, yaml.ScalarNode) and value.style is None and key.value in data
    }
    return data | {key: text for key, text in written.items() if not _is_plain(data[key], text)}


def _is_plain(value: Any, text: str) -> bool:
    """Whether a value is as good as its text."""
    if isinstance(value, bool):
        return text.lower() in ("true", "false")
    if isinstance(value, datetime):
        return not _is_iso(text)
    return value is None or isinstance(value, date) or str(value) == text


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
