"""Markdown and plain text, with optional YAML front matter."""

from __future__ import annotations

import yaml

from serve_app.errors import UnprocessableDocument
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
        # A few aliases of aliases would fill the memory as soon as they are printed.
        aliased = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(head))
        data = {} if aliased else yaml.safe_load(head) or {}
        metadata = scalars(data) if isinstance(data, dict) else None
    except Exception:  # odd values provoke ValueError, AttributeError and others in PyYAML
        raise UnprocessableDocument(f"{name}: front matter is not valid YAML") from None
    if aliased or metadata is None:
        raise UnprocessableDocument(f"{name}: front matter must be plain `key: value` lines")
    return metadata
