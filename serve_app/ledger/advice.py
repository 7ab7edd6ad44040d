"""Is it worth it? Costs of ways to do the same, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.ledger.prices import TokenPrice

_MOST_TURNS = 10_000


@dataclass(frozen=True, slots=True)
class KnowledgeCosts:
    """Dollars of a conversation's evidence.

    Attributes:
        rows: Number of turns, dollars with the whole base in the prompt, dollars by retrieval.
        crossover: First turn at which the whole base has cost no more; `None` if there is none.
    """

    rows: tuple[tuple[int, float, float], ...]
    crossover: int | None


def knowledge_costs(
    price: TokenPrice, base: int, chunks: int, top_k: int, turns: Sequence[int]
) -> KnowledgeCosts:
    """What evidence costs after so many turns of one conversation.

    The whole base is the same prefix each turn: cached from the second on. Retrieved chunks differ
    each turn and are always paid in full; `top_k` chunks of the mean length.

    Args:
        base, chunks: How many tokens and chunks there are.
    """
    retrieved = top_k * base / chunks
    cached = price.input if price.cached_input is None else price.cached_input

    def whole(n: int) -> float:
        return base * (price.input + cached * (n - 1)) / 1e6

    def retrieval(n: int) -> float:
        return min(retrieved, base) * price.input * n / 1e6

    return KnowledgeCosts(
        tuple((n, whole(n), retrieval(n)) for n in turns),
        next((n for n in range(1, _MOST_TURNS) if whole(n) <= retrieval(n)), None),
    )
