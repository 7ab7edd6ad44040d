"""All rows of an index, in parts that fit into memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

_PART = 2000  # rows, about
_DIGITS = "0123456789abcdef"


def intervals(rows: int) -> Iterator[tuple[str, str]]:
    """Half-open intervals of keys that together hold all rows, about 2,000 each; an empty end is
    none. Rows of one document are in one of them.

    Args:
        rows: About how many there are.
    """
    # Keys begin with hashes, so their first digits divide the rows evenly.
    digits = 0
    while rows > _PART * 16**digits:
        digits += 1
    prefixes = ["".join(each) for each in itertools.product(_DIGITS, repeat=digits)]
    yield from itertools.pairwise([*prefixes, ""])
