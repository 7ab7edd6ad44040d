from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.router.heads import Example, Heads, load_examples

GOOD: list[dict[str, Any]] = [
    {"query": "rewrite this", "route": "expert", "volatile": 0, "complex": 0},
    {"query": "stock now?", "route": "knowledge", "volatile": 1, "complex": 0},
    {"query": "plan a merger", "route": "frontier", "volatile": 0, "complex": 1},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "examples.jsonl"


def write(file: Path, rows: Sequence[object]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_examples_are_read_in_order_and_blank_lines_skipped(file: Path) -> None:
    examples = load_examples(write(file, [GOOD[0], "", *GOOD[1:]]))
    assert examples[1] == Example("stock now?", Route.KNOWLEDGE, True, False)
    assert [example.query for example in examples] == [row["query"] for row in GOOD]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "property name"),
        ({**GOOD[0], "route": "expart"}, "expart"),
        ({k: v for k, v in GOOD[0].items() if k != "query"}, "'query' is missing"),
        ({k: v for k, v in GOOD[0].items() if k != "complex"}, "'complex' is missing"),
        ({**GOOD[0], "query": "   "}, "not empty"),
        ({**GOOD[0], "query": 7}, "query must be a text"),
        ({**GOOD[0], "volatile": "no"}, "volatile"),
        (["a", "list"], ""),
        ("null", ""),
    ],
)
def test_bad_row_is_named_with_its_reason(file: Path, row: object, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_examples(write(file, [GOOD[0], row, *GOOD[1:]]))
    assert caught.value.message.startswith(f"{file}:2: ")
    assert reason in caught.value.message


def test_line_separator_inside_a_query_does_not_end_the_row(file: Path) -> None:
    rows = [{**GOOD[0], "query": "first\u2028second"}, *GOOD[1:]]
    assert load_examples(write(file, rows))[0].query == "first\u2028second"


def test_missing_file_is_named(file: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_examples(file)
    assert str(file) in caught.value.message


@pytest.mark.parametrize(
    ("rows", "absent"),
    [
        (GOOD[:2], "route = frontier"),
        ([{**row, "volatile": 0} for row in GOOD], "volatile = True"),
        ([{**row, "complex": 1} for row in GOOD], "complex = False"),
        ([], "route = expert, frontier, knowledge"),
    ],
)
def test_label_without_examples_is_refused(
    file: Path, rows: list[dict[str, Any]], absent: str
) -> None:
    with pytest.raises(SettingsError, match=absent):
        load_examples(write(file, rows))


def test_signals_are_probabilities_that_follow_the_examples() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), 8, axis=0)
    examples = [
        Example("", route, route is Route.KNOWLEDGE, route is Route.FRONTIER)
        for route in Route
        for _ in range(8)
    ]
    for route, signals in zip(
        Route, Heads.train(points, examples).signals(np.eye(3, dtype=np.float32)), strict=True
    ):
        assert sum(signals.roads.values()) == pytest.approx(1, abs=1e-5)
        assert max(signals.roads, key=lambda road: signals.roads[road]) is route
        assert (signals.volatility > 0.5) is (route is Route.KNOWLEDGE)
        assert (signals.complexity > 0.5) is (route is Route.FRONTIER)


def test_saved_heads_say_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    heads = Heads(
        random.normal(size=(5, 384)).astype(np.float32), random.normal(size=5).astype(np.float32)
    )
    points = random.normal(size=(4, 384)).astype(np.float32)
    heads.save(tmp_path / "heads.safetensors")
    assert Heads.load(tmp_path / "heads.safetensors").signals(points) == heads.signals(points)
    assert [path.name for path in tmp_path.iterdir()] == ["heads.safetensors"]
