"""Files of JSON objects, whoever wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import SettingsError
from serve_app.jsonl import objects

WANTED = '{"id","query"}'


TEXT = st.text(st.characters(codec="utf-8"))


@given(st.lists(st.dictionaries(TEXT, TEXT | st.none() | st.integers()), max_size=5))
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n\n".join(lines), encoding="utf-8", newline="\n")
    assert list(objects(path, WANTED)) == [(2 * i + 1, row) for i, row in enumerate(rows)]


def test_editors_of_other_systems_may_have_written_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a"}\r\n{"id": "b\xe2\x80\xa8c"}\r\n')
    assert list(objects(path, WANTED)) == [(1, {"id": "a"}), (2, {"id": "b\u2028c"})]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"id": "a"}\n{"id": ', 'rows.jsonl:2: not JSON: .*; each line is {"id","query"}'),
        (b'["a"]', 'rows.jsonl:1: a row must be a JSON object, {"id","query"}'),
        (b"[" * 100_000, "rows.jsonl:1: not JSON"),
        (b'{"id": "\xff"}', "rows.jsonl: cannot be read"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=reason):
        list(objects(path, WANTED))
