"""Vectors of the rows that were written last: a server shows a row at its next time tick."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from serve_app.retrieval.index import Stored
from serve_app.retrieval.ranking import Floats

_ROWS = 2000  # 3 MB of vectors of 384 numbers


class Latest:
    """Of this process, by index and row: what is embedded (its hash), and its vector."""

    def __init__(self) -> None:
        self._rows: OrderedDict[tuple[str, str], tuple[str, Floats]] = OrderedDict()

    def note(self, index: str, rows: Sequence[Stored]) -> None:
        for each in rows[-_ROWS:]:
            vector = np.asarray(each.vector, dtype=np.float32)
            self._rows[index, each.id] = each.row.hash, vector
        while len(self._rows) > _ROWS:
            self._rows.popitem(last=False)

    def get(self, index: str, key: str) -> tuple[str, list[float]] | None:
        """By the key of a row, of which text and vector never change."""
        found = self._rows.get((index, key))
        return found and (found[0], [float(x) for x in found[1]])
