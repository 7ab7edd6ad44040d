"""The records of canary replays, as those who replay write them and those who watch read them."""

from __future__ import annotations

import json
from typing import Any

import fsspec

from serve_app.errors import SettingsError, Unavailable

FILE = "canary-history.jsonl"  # beside the versions of an adapter


class History:
    """Records in the order in which they were made, on any path that fsspec knows.

    Args:
        path: A file or an fsspec URL.
    """

    def __init__(self, path: str) -> None:
        try:
            self._fs, self._path = fsspec.core.url_to_fs(path)
        except (ValueError, ImportError) as error:
            raise SettingsError(f"{path}: fsspec cannot open it: {error}") from None

    @classmethod
    def of(cls, registry: str, adapter: str) -> History:
        """The one in a registry of adapters (a folder or an fsspec URL)."""
        return cls(f"{registry.rstrip('/')}/{adapter}/{FILE}")

    def records(self) -> list[dict[str, Any]]:
        """Raises `Unavailable` when the file is damaged."""
        try:
            lines = self._fs.cat_file(self._path).decode("utf-8").splitlines()
            return [json.loads(line) for line in lines if line.strip()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self._path} cannot be read: {error}") from None

    def add(self, record: dict[str, Any]) -> None:
        """Write the whole file anew: object stores cannot append.

        Raises:
            Unavailable: It cannot be written.
        """
        lines = [json.dumps(each, ensure_ascii=False) for each in (*self.records(), record)]
        try:
            self._fs.makedirs(self._path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(self._path, ("\n".join(lines) + "\n").encode())
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be written: {error}") from None
