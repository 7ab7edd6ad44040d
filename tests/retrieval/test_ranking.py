"""From hits to the order a reader wants."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.retrieval.ranking import Hit, diverse, recent_first
from tests.fixtures import chunk

NOW = 1_800_000_000.0
DAY = 86_400.0


def hit(name: str, score: float, age_s: float = 0.0, vector: tuple[float, ...] = ()) -> Hit:
    found = chunk("text", name, score=score)
    return Hit(name, found, int(NOW - age_s), vector=np.asarray(vector, np.float32))


def names(hits: list[Hit]) -> list[str]:
    return [each.key for each in hits]


@pytest.mark.parametrize("half_life_s", [60.0, 3600.0, DAY])
def test_last_week_comes_before_the_year_before_whatever_the_half_life(half_life_s: float) -> None:
    hits = [hit("2019", 0.5, 7 * 365 * DAY), hit("week", 0.499, 7 * DAY), hit("none", 0.499, NOW)]
    assert names(recent_first(hits, NOW, half_life_s)) == ["week", "2019", "none"]


def test_the_bonus_has_halved_after_the_half_life() -> None:
    (new, old) = recent_first([hit("new", 1.0), hit("old", 1.0, 3600)], NOW, 3600)
    assert (new.chunk.score, old.chunk.score) == pytest.approx((1.0, 0.75))


def test_what_is_old_is_not_lifted_by_a_score_below_zero() -> None:
    hits = [hit("old", -0.2, 365 * DAY), hit("new", -0.2, 60)]
    assert names(recent_first(hits, NOW, 3600)) == ["new", "old"]


@pytest.mark.parametrize("shift", [0.0, -4.0, -40.0])
def test_diversity_begins_with_the_best_whatever_the_scale_of_scores(shift: float) -> None:
    same, other = (1.0, 0.0), (0.0, 1.0)
    hits = [hit("best", 8 + shift, vector=same), hit("twin", 7.9 + shift, vector=same)]
    hits.append(hit("other", 4 + shift, vector=other))
    assert names(diverse(hits, 3, 0.5)) == ["best", "other", "twin"]
