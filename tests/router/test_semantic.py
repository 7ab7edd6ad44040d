from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest

from serve_app.domain import Route
from serve_app.router.encoder import Encoder
from serve_app.router.heads import load_examples
from serve_app.router.semantic import SemanticRouter, train
from tests.conftest import ROOT

EXAMPLES = ROOT / "configs" / "demo" / "routes.jsonl"
HELD_OUT = ROOT / "tests" / "data" / "demo_questions.jsonl"

ODD_QUERIES = [
    " ",
    "?",
    ".",
    "\x00",
    "stock\x00level",
    "🤖🔥👩‍👩‍👧",
    "ما هي ساعات العمل؟",
    "\u202eright to left\u202c",
    "\u200b\ufeff",
    "a" * 100_000,
    "今天的销售额是多少",
]


@pytest.fixture(scope="module")
def router(encoder: Encoder) -> SemanticRouter:
    return SemanticRouter(encoder, train(encoder, EXAMPLES))


def test_held_out_questions_take_their_road(router: SemanticRouter) -> None:
    rows = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").split("\n") if line]
    decisions = router.decide([row["query"] for row in rows])
    right = [made.route == row["route"] for made, row in zip(decisions, rows, strict=True)]
    accuracy = sum(right) / len(right)
    majority = Counter(row["route"] for row in rows).most_common(1)[0][1] / len(rows)
    print(f"router accuracy {accuracy:.3f} on {len(rows)} held-out questions ({majority=:.3f})")
    assert accuracy >= 0.9


def test_held_out_questions_are_not_among_the_examples() -> None:
    known = {example.query for example in load_examples(EXAMPLES)}
    lines = HELD_OUT.read_text(encoding="utf-8").split("\n")
    assert not known & {json.loads(line)["query"] for line in lines if line}


@pytest.mark.parametrize("query", ODD_QUERIES)
def test_odd_queries_get_a_sound_decision(router: SemanticRouter, query: str) -> None:
    (made,) = router.decide([query])
    assert sum(made.scores.values()) == pytest.approx(1, abs=1e-4)
    assert set(made.scores) == set(Route)
    assert made.confidence == made.scores[made.route] == max(made.scores.values())
    assert 0 <= made.volatility <= 1
    assert 0 <= made.complexity <= 1
    assert math.isfinite(made.latency_ms)
    assert made.reason


def test_decisions_of_a_batch_are_in_order_and_equal_those_made_alone(
    router: SemanticRouter,
) -> None:
    queries = [
        "Rewrite in a friendly tone: your parcel is late.",
        "What was our revenue in the last 15 minutes?",
        "Prove that the sum of two odd numbers is even, then generalise to n odd numbers.",
    ]
    together = router.decide(queries)
    for query, made in zip(queries, together, strict=True):
        (alone,) = router.decide([query])
        assert alone.route is made.route
        assert alone.confidence == pytest.approx(made.confidence, abs=0.15)


def test_pasted_megabyte_is_bounded_and_decided_by_its_ends(router: SemanticRouter) -> None:
    question = "What was our revenue in the last 15 minutes?"
    (plain,) = router.decide([question])
    (made,) = router.decide([f"{'lorem ipsum ' * 90_000}\n{question}"])
    assert made.latency_ms < 2000
    assert len(made.scores) == 3
    assert plain.route is Route.KNOWLEDGE


def test_embeddings_have_length_one(encoder: Encoder) -> None:
    vectors = encoder.encode(["hello", *ODD_QUERIES])
    assert vectors.shape == (len(ODD_QUERIES) + 1, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)


def test_tail_of_a_long_text_is_read(encoder: Encoder) -> None:
    filler = "word " * 400_000
    one, other = encoder.encode([filler + "revenue today", filler + "write a poem"])
    assert float(one @ other) < 0.9999
