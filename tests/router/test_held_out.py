"""What the router is measured on is not what it was trained on, nor nearly so."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from serve_app.router.rows import read_rows
from tests.conftest import ROOT

TRAINING = [ROOT / "configs/demo/routes.jsonl", *(ROOT / "configs/router").glob("*.jsonl")]
QUESTIONS = ROOT / "tests/data/router_questions.jsonl"
WORLD = ROOT / "tests/data/router_world_facts.jsonl"
FOLLOW_UPS = ROOT / "tests/data/router_followups.jsonl"
_NEAREST = 6


def copies(held: Sequence[str], training: Sequence[str]) -> list[tuple[str, str]]:
    """Held-out texts that have more than 70 % of a training text's letters or of its weights.

    The letters are those of the longest common runs; the weights are TF-IDF of parts of words.
    """
    plain = [" ".join(text.lower().split()) for text in (*held, *training)]
    table = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    rows = table.fit_transform(plain)
    alike = (rows[: len(held)] @ rows[len(held) :].T).toarray()
    found = []
    for number, weights in enumerate(alike):
        for near in np.argsort(-weights)[:_NEAREST]:
            known = training[near].lower()
            letters = SequenceMatcher(None, held[number].lower(), known, autojunk=False).ratio()
            if max(weights[near], letters) > 0.7:
                found.append((held[number], training[near]))
                break
    return found


def last_turns(*paths: Path) -> list[str]:
    return [row.turns.last for path in paths for row in read_rows(path)]


def test_held_out_questions_are_no_near_copies_of_training_rows() -> None:
    assert copies(last_turns(QUESTIONS, WORLD), last_turns(*TRAINING)) == []


def test_held_out_conversations_are_not_among_the_training_rows() -> None:
    """A last turn such as "shorter" may be in both; with what was said before it, it may not."""
    known = {(row.turns.earlier, row.turns.last) for path in TRAINING for row in read_rows(path)}
    assert not [
        row for row in read_rows(FOLLOW_UPS) if (row.turns.earlier, row.turns.last) in known
    ]


def test_a_near_copy_is_found() -> None:
    training = ["Will it rain in Leeds this afternoon?", "boiling point of water"]
    held = ["Will it rain in Bergen this afternoon?", "Which tent fits four people?"]
    assert copies(held, training) == [(held[0], training[0])]
