from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import SettingsError
from serve_app.router.rows import read_rows, read_turns, utterance_rows
from serve_app.router.turns import Turns

GOOD: list[dict[str, Any]] = [
    {"query": "rewrite this", "route": "expert", "volatile": 0},
    {"query": "stock now?", "route": "knowledge", "volatile": 1},
    {"query": "plan a merger", "intent": "plans", "complex": 0.7},
]


def write(file: Path, rows: Sequence[object]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_rows_are_read_in_order_and_blank_lines_skipped(file: Path) -> None:
    rows = read_rows(write(file, [GOOD[0], "", *GOOD[1:]]))
    assert [row.turns.last for row in rows] == [row["query"] for row in GOOD]
    assert [row.intent for row in rows] == ["expert", "knowledge", "plans"]
    assert [row.volatile for row in rows] == [0.0, 1.0, None]
    assert [row.complex for row in rows] == [None, None, 0.7]


def test_conversation_keeps_its_last_turn_and_the_two_before(file: Path) -> None:
    said = ["one", "two", "three", "four"]
    messages = [{"role": "user", "content": text} for text in said]
    (row,) = read_rows(write(file, [{"messages": messages, "route": "expert"}]))
    assert row.turns == Turns("four", "two\nthree", tokens=3)


def test_feedback_confirms_a_road_or_names_a_better_one(file: Path) -> None:
    taken = {"query": "stock?", "route": "expert"}
    rows = read_rows(
        write(
            file,
            [
                {**taken, "good": True},
                {**taken, "good": False},
                {**taken, "good": False, "better": "knowledge"},
            ],
        )
    )
    assert [row.intent for row in rows] == ["expert", None, "knowledge"]


def test_outcomes_of_two_models_come_in_either_form(file: Path) -> None:
    scores = {"mistralai/mixtral-8x7b-chat": 0.0, "gpt-4-1106-preview": 1.0}
    rows = read_rows(
        write(
            file,
            [
                {"query": "a", "score": scores},
                {"query": "b", "weak_correct": False, "strong_correct": True},
            ],
        )
    )
    assert [(row.weak, row.strong) for row in rows] == [(0.0, 1.0)] * 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "property name"),
        ({**GOOD[0], "route": "expart"}, "expart"),
        ({"route": "expert"}, "'query' is missing"),
        ({**GOOD[0], "query": "   "}, "not empty"),
        ({**GOOD[0], "query": 7}, "query must be a text"),
        ({**GOOD[0], "volatile": "no"}, "volatile must be a number from 0 to 1"),
        ({**GOOD[0], "complex": 1.5}, "complex must be a number from 0 to 1"),
        ({**GOOD[2], "intent": 3}, "intent must be a name"),
        ({**GOOD[0], "paraphrase": " "}, "paraphrase must be a text"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "no user turn"),
        ({"messages": [{"role": "user"}]}, "'content' is missing"),
        (["a", "list"], "must be a JSON object"),
        ("null", "must be a JSON object"),
    ],
)
def test_bad_row_is_named_with_its_reason(file: Path, row: object, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_rows(write(file, [GOOD[0], row, *GOOD[1:]]))
    assert caught.value.message.startswith(f"{file}:2: ")
    assert reason in caught.value.message


def test_empty_and_missing_files_are_named(file: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_rows(file)
    with pytest.raises(SettingsError, match="holds no rows"):
        read_rows(write(file, []))


def test_line_separator_inside_a_query_does_not_end_the_row(file: Path) -> None:
    rows = read_rows(write(file, [{**GOOD[0], "query": "first\u2028second"}]))
    assert rows[0].turns.last == "first\u2028second"


def test_queries_without_labels_get_their_line_as_id(file: Path) -> None:
    asked = list(read_turns(write(file, [{"query": "a"}, {"id": "x", "query": ""}])))
    assert asked == [("1", Turns("a")), ("x", Turns(""))]


def test_utterances_come_from_a_list_or_a_file(file: Path) -> None:
    file.write_text("pay me\n\nsend the bill\n", encoding="utf-8")
    for rows in (
        utterance_rows("bills", file),
        utterance_rows("bills", ["pay me", "send the bill"]),
    ):
        assert [(row.intent, row.turns.last) for row in rows] == [
            ("bills", "pay me"),
            ("bills", "send the bill"),
        ]
