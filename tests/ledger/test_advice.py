from __future__ import annotations

from serve_app.ledger.advice import knowledge_costs
from serve_app.ledger.prices import TokenPrice


def price(cached: float | None) -> TokenPrice:
    return TokenPrice.model_validate(
        {"input": 1.0, "cached_input": cached, "output": 1, "source": "t", "as_of": "2026-01-01"}
    )


def test_cached_prefix_pays_off_after_some_turns() -> None:
    costs = knowledge_costs(price(0.1), 1000, 10, top_k=4, turns=(1, 2, 10))
    micro = [(turns, round(w * 1e6), round(r * 1e6)) for turns, w, r in costs.rows]
    assert micro == [(1, 1000, 400), (2, 1100, 800), (10, 1900, 4000)]
    assert costs.crossover == 3  # 1,200 against 1,200


def test_without_a_price_for_cached_input_retrieval_stays_cheaper() -> None:
    assert knowledge_costs(price(None), 1000, 10, top_k=4, turns=(1,)).crossover is None


def test_base_that_is_retrieved_whole_anyway_is_never_dearer() -> None:
    assert knowledge_costs(price(0.5), 30, 2, top_k=4, turns=(1,)).crossover == 1
