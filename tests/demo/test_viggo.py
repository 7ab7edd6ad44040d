"""The scores of meaning representations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from tools.viggo import parse, prepare, score

ROWS = [
    {
        "text": f"Game {i} is a fine racing game, they say in {2000 + i}.",
        "meaning_representation": mr,
    }
    for i, mr in enumerate(("inform(name[Game 0], rating[good])", "request(specifier[fun])"))
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for part in ("train", "valid"):
        lines = [json.dumps(row) for row in ROWS * 2]
        (tmp_path / f"viggo_{part}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_slots_are_counted_whatever_their_order_and_whether_or_not_the_form_is_kept() -> None:
    assert parse("inform(a[1], b[2])") == parse(" inform(b[2], a[1])\n")
    function, slots = parse("well: inform(a[1], a[1]")
    assert (function, slots[("a", "1")]) == (None, 2)


def test_right_answers_score_one_and_wrong_ones_their_share(data: Path) -> None:
    prepare(data, data / "out")
    asked = (data / "out" / "asked.jsonl").read_text().splitlines()
    given = [row["meaning_representation"] for row in ROWS * 2]
    given[0] = "inform(name[Game 0], rating[poor])"
    answers = data / "answers.jsonl"
    rows = [{"id": json.loads(q)["id"], "text": a} for q, a in zip(asked, given, strict=True)]
    answers.write_text("\n".join(map(json.dumps, rows)) + "\n")
    console = Console(width=120, record=True)
    console.print(score(data, [answers]))
    shown = console.export_text()
    assert "0.750" in shown  # of four, one is wrong
    assert "0.833" in shown  # of six slots on either side, one differs


def test_an_unfinished_file_is_not_scored(data: Path) -> None:
    (data / "answers.jsonl").write_text('{"id": 0, "text": "x"}\n')
    with pytest.raises(SystemExit, match="3 answers are missing"):
        score(data, [data / "answers.jsonl"])
