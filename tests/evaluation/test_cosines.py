"""Scales fitted to questions whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from serve_app.domain import Chunk
from serve_app.errors import SettingsError
from serve_app.evaluation import cosines
from serve_app.evaluation.cosines import Asked

NOISE = np.random.default_rng(1)


def vector(cosine: float) -> list[float]:
    """Of length 1, so near to (1, 0)."""
    return [cosine, float(np.sqrt(1 - cosine * cosine))]


class Base:
    """A chunk that answers each question and one that does not; the first is nearer, mostly."""

    def __init__(self, near: float, far: float) -> None:
        self.near, self.far = near, far

    def search(self, query: str) -> list[Chunk]:
        number = query.split()[-1]
        found = [
            Chunk(f"{name}#0", name, "", "", text, None, relevance=self._cosine(text))
            for name, text in ((f"d{number}", f"Code {number} is right."), ("x", "Other words."))
        ]
        return found if int(number) % 3 else found[1:]

    def beside(self, query: str, texts: Sequence[str]) -> list[list[float]]:
        return [vector(1.0), *(vector(self._cosine(each)) for each in texts)]

    def _cosine(self, text: str) -> float:
        middle = self.near if "Code" in text else self.far
        return float(np.clip(NOISE.normal(middle, 0.05), -1, 1))


def asked(count: int) -> list[Asked]:
    return [
        Asked(f"What is {n}", frozenset({f"d{n}"} if n % 3 else ()), (f"code {n} is",))
        for n in range(count)
    ]


@pytest.mark.parametrize(("near", "far"), [(0.6, 0.3), (0.9, 0.7)])
def test_probabilities_follow_the_model(near: float, far: float) -> None:
    base = Base(near, far)
    fitted = cosines.fit(asked(200), base.search, base.beside, "test")
    read = fitted.calibration
    for scale in (read.chunk, read.statement):
        assert scale(near) > 0.8
        assert scale(far) < 0.2
    assert fitted.right > 0.9
    assert fitted.chunk_error < 0.1
    assert read.learned_from == {"test": 200}


def test_too_few_answers_are_said(tmp_path: Path) -> None:
    base = Base(0.6, 0.3)
    with pytest.raises(SettingsError, match=r"8 of 20 chunks hold an answer: at least 30 must"):
        cosines.fit(asked(12), base.search, base.beside, "test")


def test_rows_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"query": "When?", "relevant": ["a"], "answers": ["Then"]},
        {"question": "Why?", "relevant": []},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert cosines.read(path) == [
        Asked("When?", frozenset({"a"}), ("Then",)),
        Asked("Why?", frozenset(), ()),
    ]
    for bad in ({"query": "When?"}, {"query": 1, "relevant": []}, {"query": "?", "relevant": [1]}):
        path.write_text(json.dumps(bad))
        with pytest.raises(SettingsError, match=r"rows\.jsonl:1: a row is"):
            cosines.read(path)


def test_answers_count_in_the_right_document_alone() -> None:
    one = Asked("?", frozenset({"a"}), ("on Monday",))
    there = Chunk("a#0", "a", "", "", "It opens On  Monday.", None)
    assert one.answered_by(there, there.text)
    assert not one.answered_by(there, "It opens.")
    other = Chunk("b#0", "b", "", "", "It opens on Monday.", None)
    assert not one.answered_by(other, other.text)
