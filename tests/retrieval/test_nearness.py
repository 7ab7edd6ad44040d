from __future__ import annotations

import pytest

from loadtest.words import HashedWords
from serve_app.retrieval.nearness import Nearness


def test_cosines_are_in_the_order_of_the_texts_and_texts_are_embedded_once() -> None:
    embed, nearness = HashedWords(), Nearness()
    asked = ["red tent", "blue stove", "red tent"]
    first = nearness("words", embed, "red tent", asked)
    assert first == pytest.approx([1.0, 0.0, 1.0])
    assert nearness("words", embed, "blue tent", [*asked, "blue rope"])[3] == pytest.approx(0.5)
    assert embed.embedded == ["red tent", "red tent", "blue stove", "blue tent", "blue rope"]


def test_models_are_not_mixed_up() -> None:
    embed, nearness = HashedWords(), Nearness()
    nearness("one", embed, "a", ["b"])
    nearness("two", embed, "a", ["b"])
    assert embed.embedded == ["a", "b", "a", "b"]


def test_no_text_has_no_cosine() -> None:
    assert Nearness()("words", HashedWords(), "red tent", []) == []
