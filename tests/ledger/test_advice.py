from __future__ import annotations

import pytest

from serve_app.ledger.advice import knowledge_costs
from serve_app.ledger.prices import TokenPrice


def price(cached: float | None) -> TokenPrice:
    return TokenPrice.model_validate(
        {"input": 1.0, "cached_input": cached, "output": 1, "source": "t", "as_of": "2026-01-01"}
    )


def test_cached_prefix_pays_off_after_some_turns() -> None:
    costs = knowledge_costs(price(0.1), [100] * 10, top_k=4, turns=(1, 2, 10))
    assert costs.rows == (
        (1, pytest.approx(1000e-6), pytest.approx(400e-6)),
        (2, pytest.approx(1100e-6), pytest.approx(800e-6)),
        (10, pytest.approx(1900e-6), pytest.approx(4000e-6)),
    )
    assert costs.crossover == 3  # 1,200 against 1,200


def test_without_a_price_for_cached_input_retrieval_stays_cheaper() -> None:
    assert knowledge_costs(price(None), [100] * 10, top_k=4, turns=(1,)).crossover is None


def test_base_that_is_retrieved_whole_anyway_is_never_dearer() -> None:
    assert knowledge_costs(price(0.5), [10, 20], top_k=4, turns=(1,)).crossover == 1
