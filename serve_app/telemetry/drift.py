"""The records of canary replays, as those who replay write them and those who watch read them."""

from __future__ import annotations

import json
from typing import Any

from serve_app.errors import Unavailable
from serve_app.storage import Store

FILE = "canary-history.jsonl"  # beside the versions of an adapter


class History:
    """Records in the order in which they were made, on any path that fsspec knows.

    Args:
        path: A file or an fsspec URL.
    """

    def __init__(self, path: str) -> None:
        folder, _, self._file = path.rpartition("/")
        self._store = Store(folder or ".")

    @classmethod
    def of(cls, registry: str, adapter: str) -> History:
        """The one in a registry of adapters (a folder or an fsspec URL)."""
        return cls(f"{registry.rstrip('/')}/{adapter}/{FILE}")

    def records(self) -> list[dict[str, Any]]:
        """Raises `Unavailable` when the file is damaged or its store cannot be read."""
        try:
            lines = self._store.read(self._file).decode("utf-8").splitlines()
            return [json.loads(line) for line in lines if line.strip()]
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise Unavailable(f"{self._store.root}/{self._file} is damaged: {error}") from None

    def add(self, record: dict[str, Any]) -> None:
        """Write the whole file anew: object stores cannot append.

        Raises:
            Unavailable: It cannot be written.
        """
        lines = [json.dumps(each, ensure_ascii=False) for each in (*self.records(), record)]
        self._store.write(self._file, ("\n".join(lines) + "\n").encode())
