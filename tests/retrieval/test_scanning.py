from __future__ import annotations

import pytest

from serve_app.retrieval.registry.entries import document_key
from serve_app.retrieval.scanning import intervals


@pytest.mark.parametrize("rows", [0, 1999, 2000, 50_000])
def test_intervals_hold_every_key_once_and_about_as_many_each(rows: int) -> None:
    keys = [document_key("t", f"document {i}") for i in range(rows)]
    counts = [
        sum(first <= key and (not end or key < end) for key in keys)
        for first, end in intervals(rows)
    ]
    assert sum(counts) == rows
    assert max(counts) < 3000
