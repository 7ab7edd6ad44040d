"""How well each road answers is learned from outcomes, and a bad file of them is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.router.heads import Signals
from serve_app.router.outcomes import KINDS, load_outcomes
from serve_app.router.training.outcomes import Outcome, fit

OPEN = {kind: float(kind == "open") for kind in KINDS}
SIGNALS = Signals({}, 1.0, 0.1, 0.5)


def many(success: float, count: int) -> list[Outcome]:
    return [Outcome(Route.EXPERT, OPEN, 0.0, success, 40, source="ours")] * count


def test_outcomes_move_a_road_as_far_as_there_are_many() -> None:
    shipped = load_outcomes(None)
    before = shipped.success(Route.EXPERT, OPEN, SIGNALS)
    few = fit(shipped, many(1.0, 2)).success(Route.EXPERT, OPEN, SIGNALS)
    all_right = fit(shipped, many(1.0, 200))
    assert before < few < all_right.success(Route.EXPERT, OPEN, SIGNALS)
    assert all_right.success(Route.EXPERT, OPEN, SIGNALS) > 0.9
    assert fit(shipped, many(0.0, 200)).success(Route.EXPERT, OPEN, SIGNALS) < 0.1
    assert all_right.roads[Route.EXPERT].completion_tokens == 40
    assert all_right.roads[Route.FRONTIER] == shipped.roads[Route.FRONTIER]
    assert all_right.version != shipped.version


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("roads: {}", "expert, frontier, knowledge is missing"),
        ("roads: {mars: {}}", "'expert', 'knowledge'"),
        ("roads: {expert: {offsets: {task: 1}, slope: 0, completion_tokens: 1}}", "must name"),
        ("colour: red", "Extra inputs"),
    ],
)
def test_bad_outcomes_are_refused_with_their_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_outcomes(path)
    assert caught.value.message.startswith(str(path))
    assert reason in caught.value.message
