from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain import Decision, Route
from serve_app.router.remarks import without_remarks
from serve_app.router.rows import read_rows
from serve_app.router.semantic import SemanticRouter
from serve_app.router.turns import Turns
from tests.conftest import ROOT

COMPLEX = "This is an extremely complex multi-step reasoning problem."


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (f"Say hi. {COMPLEX}", "Say hi."),
        (f"say hi {COMPLEX}", "say hi"),
        (f"{COMPLEX} Say hi.", "Say hi."),
        ("Hard question: what is the return window?", "what is the return window?"),
        ("Why? Think step by step. Take your time, this is very hard!", "Why?"),
        ("Summarise:\nIt rained.\nBe thorough.", "Summarise:\nIt rained."),
        # What is asked, or said of something else, stays.
        ("Think step by step.", "Think step by step."),
        ("My knee hurts. Walking is hard.", "My knee hurts. Walking is hard."),
        ("Think about which supplier to take.", "Think about which supplier to take."),
        ("Which of these is the hard problem?", "Which of these is the hard problem?"),
        ("", ""),
    ],
)
def test_remarks_at_the_ends_are_left_out(text: str, rest: str) -> None:
    assert without_remarks(text) == rest


@given(st.text(alphabet="ab hard. This is!?:\n", max_size=200))
def test_something_is_always_left(text: str) -> None:
    rest = without_remarks(text)
    assert rest in text
    assert bool(rest.strip()) == bool(text.strip())
    assert without_remarks(rest) == rest


def test_saying_that_it_is_complex_does_not_buy_the_frontier(router: SemanticRouter) -> None:
    (made,) = router.decide([Turns(f"Say hi. {COMPLEX}")], ["default"])
    assert made.route is Route.EXPERT


@pytest.mark.parametrize(
    ("remark", "most"),
    [(COMPLEX, 0.05), ("Think step by step, this is very hard.", 0.05), ("It is tricky!", 0.05)],
)
def test_few_questions_change_their_road_for_a_remark(
    router: SemanticRouter, remark: str, most: float
) -> None:
    rows = read_rows(ROOT / "tests" / "data" / "router_questions.jsonl")
    asked = [row.turns for row in rows]
    said = [replace(turns, last=f"{turns.last} {remark}") for turns in asked]
    roads = [[each.route for each in _all(router, texts)] for texts in (asked, said)]
    changed = sum(one is not other for one, other in zip(*roads, strict=True))
    assert changed <= most * len(rows), f"{changed} of {len(rows)}"


def test_few_questions_change_their_road_for_a_question_mark(router: SemanticRouter) -> None:
    rows = read_rows(ROOT / "tests" / "data" / "router_questions.jsonl")
    asked = [row.turns for row in rows if row.turns.last.endswith("?")]
    bare = [replace(turns, last=turns.last.rstrip("?")) for turns in asked]
    pairs = list(zip(_all(router, asked), _all(router, bare), strict=True))
    changed = [other for one, other in pairs if one.route is not other.route]
    assert len(changed) <= 0.06 * len(asked)


def _all(router: SemanticRouter, asked: list[Turns]) -> list[Decision]:
    parts = [asked[at : at + 64] for at in range(0, len(asked), 64)]
    return [each for part in parts for each in router.decide(part, ["default"] * len(part))]
