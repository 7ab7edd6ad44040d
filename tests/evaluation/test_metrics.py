from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from serve_app.evaluation.metrics import (
    apgr,
    calibration_error,
    call_share,
    gap_recovered,
    paired_p,
)

WEAK = np.array([0.0, 1.0, 0.0, 1.0])
STRONG = np.ones(4)


def test_perfect_chance_and_worst_order() -> None:
    assert apgr(np.array([4, 1, 3, 2]), WEAK, STRONG) == pytest.approx(0.75)
    assert apgr(np.zeros(4), WEAK, STRONG) == pytest.approx(0.5)
    assert apgr(np.array([1, 4, 2, 3]), WEAK, STRONG) == pytest.approx(0.25)


def test_share_of_calls_that_recovers_a_target() -> None:
    scores = np.array([4, 1, 3, 2])
    assert call_share(scores, WEAK, STRONG, 0.5) == 0.25
    assert call_share(scores, WEAK, STRONG, 0.8) == 0.5


def test_a_strong_model_that_is_no_better_is_refused() -> None:
    with pytest.raises(ValueError, match="not better"):
        apgr(np.zeros(4), STRONG, WEAK)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_curve_ends_at_one_and_mirrors(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows], dtype=float)
    weak = np.array([float(right) for _, right in rows])
    weak[0] = 0.0
    _, recovered = gap_recovered(scores, weak, np.ones(len(rows)))
    assert recovered[0] == 0
    assert recovered[-1] == pytest.approx(1)
    mirrored = apgr(scores, weak, np.ones(len(rows))) + apgr(-scores, weak, np.ones(len(rows)))
    assert mirrored == pytest.approx(1)


def test_calibration_error_is_the_gap_of_probability_and_frequency() -> None:
    outcomes = np.array([1.0] * 7 + [0.0] * 3)
    assert calibration_error(np.full(10, 0.7), outcomes) == pytest.approx(0.0)
    assert calibration_error(np.full(10, 0.9), outcomes) == pytest.approx(0.2)


def test_chance_is_told_from_a_difference() -> None:
    noise = np.random.default_rng(1)
    values = noise.random(200)
    assert paired_p(values, values) == 1
    assert paired_p(values, values + noise.normal(0.0, 0.1, 200)) > 0.05
    assert paired_p(values, values + noise.normal(0.05, 0.1, 200)) < 0.001


def test_chance_by_hand() -> None:
    """Two rows: of the four ways to exchange them, two differ as much."""
    assert paired_p(np.array([1.0, 1.0]), np.zeros(2)) == pytest.approx(0.5, abs=0.02)
