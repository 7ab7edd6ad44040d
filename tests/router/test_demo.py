"""The demo's heads: those that are shipped, and one intent more."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from serve_app.domain import Decision, Route
from serve_app.jsonl import objects
from serve_app.router.heads import Heads
from serve_app.router.rows import Row, read_rows, read_turns
from serve_app.router.semantic import SemanticRouter
from serve_app.settings import load
from tests.conftest import ROOT
from tests.router.test_semantic import is_right

HOUSE_STYLE = ROOT / "configs" / "demo" / "house_style"


@pytest.fixture(scope="module")
def router(router: SemanticRouter) -> SemanticRouter:
    path = load(ROOT / "configs" / "local.yaml").router.heads
    assert path is not None
    return replace(router, heads=Heads.load(ROOT / path))


def decide(router: SemanticRouter, rows: list[Row]) -> list[Decision]:
    return router.decide([row.turns for row in rows], ["default"] * len(rows))


def to_the_adapter(made: Decision) -> bool:
    likeliest = max(made.fit, key=lambda name: made.fit[name])
    return made.route is Route.EXPERT and likeliest == "house-style"


def test_held_out_notes_go_to_their_adapter(router: SemanticRouter) -> None:
    turns = [turns for _, turns in read_turns(HOUSE_STYLE / "test.jsonl")]
    made = router.decide(turns, ["default"] * len(turns))
    assert len(made) == 260
    assert sum(map(to_the_adapter, made)) >= 0.95 * len(made)


def test_other_questions_keep_their_road_and_away_from_it(router: SemanticRouter) -> None:
    rows = read_rows(ROOT / "tests" / "data" / "router_questions.jsonl")
    made = decide(router, rows)
    assert sum(map(is_right, made, rows)) >= 0.95 * len(rows)
    assert sum(map(to_the_adapter, made)) <= 2


def test_held_out_notes_are_not_among_the_utterances() -> None:
    held = (HOUSE_STYLE / "test.jsonl").read_text(encoding="utf-8")
    utterances = [row for _, row in objects(HOUSE_STYLE / "utterances.jsonl", "utterances")]
    assert len(utterances) == 200
    assert not [row for row in utterances if json.dumps(row["query"])[1:-1] in held]
