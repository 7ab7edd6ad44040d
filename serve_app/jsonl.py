"""Files of JSON objects, one in a line, as people hand them to us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve_app.errors import SettingsError
from serve_app.plain_data import json_text


def objects(path: Path, wanted: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The object of each line that is not blank, with the line's number (from 1).

    Args:
        wanted: What a row should look like, for the messages: `{"id","query"}`.

    Raises:
        SettingsError: The file cannot be read, or a line is not a JSON object; names both.
    """
    try:
        # Not splitlines: JSON may hold other line separators inside a text.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json_text(line)
        except (ValueError, RecursionError) as error:
            raise SettingsError(
                f"{path}:{number}: not JSON: {error}; each line is {wanted}"
            ) from None
        if not isinstance(row, dict):
            raise SettingsError(f"{path}:{number}: a row must be a JSON object, {wanted}")
        yield number, row
