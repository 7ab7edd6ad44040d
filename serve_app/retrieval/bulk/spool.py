"""Lines that may be too many for memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator

_IN_MEMORY = 1024 * 1024


class Spool:
    """Texts in the order they came; beyond a megabyte they are in a file without a name."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115  # as long as the object lives
            max_size=_IN_MEMORY, mode="w+", encoding="utf-8"
        )
        self._count = 0

    def add(self, text: str) -> None:
        self._file.seek(0, 2)
        self._file.write(json.dumps(text) + "\n")
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        place = 0
        while True:
            self._file.seek(place)
            line = self._file.readline()
            if not line:
                return
            place = self._file.tell()
            yield json.loads(line)
