"""Rows that the cross-encoder learns from, and claims made of them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import SettingsError
from serve_app.retrieval.cross_encoder.training import claims
from serve_app.retrieval.cross_encoder.training.rows import (
    CONTRADICTED,
    NOT_STATED,
    SUPPORTED,
    UNFAITHFUL,
    Pair,
    read,
)

LAUNCH = (
    "The probe left Kourou in 2004 and was the first to land on a comet. "
    "Its instruments (there were ten) could not be repaired, which Hans Meyer had feared."
)
OTHER = "The canteen of the ministry opens at noon on every working day of the year."


def written(path: Path, *rows: object) -> Path:
    text = "\n".join(map(json.dumps, rows))
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.write(text)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_three_shapes_are_read(tmp_path: Path, name: str) -> None:
    found = read(
        written(
            tmp_path / name,
            {"question": "When?", "passage": LAUNCH, "relevant": True, "kind": "human"},
            {
                "question": "When?",
                "passages": [{"id": "1", "text": LAUNCH}, {"id": "2", "text": OTHER}],
                "support": ["1"],
                "answers": ["2004"],
            },
            {"question": "When?", "passages": [{"id": "1", "text": OTHER}], "answers": ["2004"]},
            {"source": LAUNCH, "answer": "It left in 2004.", "faithful": True},
            {"source": LAUNCH, "answer": "It left in 2005.", "faithful": False},
            {"source": LAUNCH, "answer": "No.", "faithful": False, "verdict": "contradicted"},
            {"source": LAUNCH, "answer": "Eh?", "faithful": False, "verdict": "not stated"},
        )
    )
    at = LAUNCH.index("2004")
    assert found[:3] == [
        Pair("When?", LAUNCH, answers=True),
        Pair("When?", LAUNCH, answers=True, span=(at, at + 4)),
        Pair("When?", OTHER, answers=False),
    ]
    assert [each.verdict for each in found[3:]] == [
        SUPPORTED,
        UNFAITHFUL,
        CONTRADICTED,
        NOT_STATED,
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "When?", "passage": "Then.", "relevant": 1}, "rows.jsonl:1: relevant"),
        ({"source": "a", "answer": "b", "faithful": False, "verdict": "odd"}, "'odd'"),
        ({"query": "When?"}, '"faithful"'),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path: Path, row: object, said: str) -> None:
    with pytest.raises(SettingsError, match=r"rows\.jsonl:1") as error:
        read(written(tmp_path / "rows.jsonl", row))
    assert said in str(error.value)


def test_rows_that_say_nothing_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", {"question": "?", "passages": [], "answers": []})
    with pytest.raises(SettingsError, match="no row says anything"):
        read(path)


@pytest.mark.parametrize("kind", list(claims.ALTERED))
def test_a_claim_is_wrong_in_one_place(kind: str) -> None:
    made = {claims.altered(LAUNCH, kind, random.Random(seed)) for seed in range(40)} - {None}
    assert made
    for claim in made:
        assert claim
        assert claim not in LAUNCH
        told = claim.replace(" not ", " ").split()
        assert len(set(told) - set(LAUNCH.split())) <= 2


def test_claims_are_the_same_every_time() -> None:
    one, two = (claims.of_passages([LAUNCH, OTHER], 60, random.Random(3)) for _ in range(2))
    assert one == two
    assert {each.verdict for each in one} == {SUPPORTED, CONTRADICTED, NOT_STATED}
    ordered = [each for each in one if each.second not in (LAUNCH, OTHER)]
    assert ordered
    for each in one:
        if each.verdict == NOT_STATED and each not in ordered:
            assert each.first not in each.second
    assert any(each.verdict == NOT_STATED and each.first in each.second for each in ordered)


def test_answers_become_claims() -> None:
    at = LAUNCH.index("2004")
    right = Pair("When did it leave?", LAUNCH, answers=True, span=(at, at + 4))
    made = claims.of_answers([right], 5, random.Random(1))
    assert made[0] == Pair("When did it leave? 2004", LAUNCH, verdict=SUPPORTED)
    assert made[1].verdict == CONTRADICTED
    assert made[1].first != made[0].first


@given(st.lists(st.text(max_size=80), max_size=3), st.integers(0, 5))
def test_any_text_may_be_a_passage(passages: list[str], seed: int) -> None:
    for each in claims.of_passages(passages, 5, random.Random(seed)):
        # What an order is put into stays whole beside it.
        assert any(set(each.second.split()) >= set(passage.split()) for passage in passages)
