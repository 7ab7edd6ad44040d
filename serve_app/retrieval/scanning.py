"""All rows of an index, in parts that fit into memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

_PART = 2000  # rows, about
_DIGITS = 8  # of keys; they begin with hashes, which divide the rows evenly


def intervals(rows: int) -> Iterator[tuple[str, str]]:
    """Half-open intervals of keys that together hold all rows, about 2,000 each; an empty end is
    none. Rows of one document are in one of them.

    Args:
        rows: About how many there are.
    """
    parts = rows // _PART + 1
    bounds = (f"{16**_DIGITS * i // parts:0{_DIGITS}x}" for i in range(1, parts))
    yield from itertools.pairwise(itertools.chain([""], bounds, [""]))
