from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from serve_app.retrieval import chunking
from serve_app.retrieval.chunking import Piece

_LINES = st.lists(
    st.one_of(
        st.sampled_from(["", " ", "```", "# One", "## Two", "### Three", "#", "#hash", "```py"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
        st.lists(st.sampled_from(["word", "end.", "Why?", "3.5", "é"]), max_size=80).map(" ".join),
    ),
    max_size=12,
)
TEXTS = _LINES.map("\n".join)


def words(text: str) -> int:
    return len(text.split())


def split(text: str, max_tokens: int) -> list[Piece]:
    return chunking.split(text, max_tokens, words)


_HEADING = re.compile(r"^#{1,6}\s+(.*\S)\s*$")


def body_words(text: str) -> list[str]:
    """Every word of the text, and of each heading that nothing stands under: no text, no deeper
    heading. Read independently of the code under test.
    """
    found: list[str] = []
    bare: tuple[int, list[str]] | None = None
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        heading = None if fenced else _HEADING.match(line)
        if heading is None:
            found += line.split()
            bare = None if line.strip() else bare
            continue
        level = len(line) - len(line.lstrip("#"))
        if bare and bare[0] >= level:
            found += bare[1]
        bare = (level, heading[1].split())
    return found + (bare[1] if bare else [])


@given(TEXTS, st.integers(1, 200))
def test_no_word_is_lost_repeated_or_reordered(text: str, max_tokens: int) -> None:
    pieces = split(text, max_tokens)
    assert [word for piece in pieces for word in piece.text.split()] == body_words(text)


@given(TEXTS, st.integers(1, 200))
def test_no_piece_is_empty_or_above_the_bound(text: str, max_tokens: int) -> None:
    for piece in split(text, max_tokens):
        assert piece.text.strip()
        assert words(piece.text) <= max_tokens


@given(TEXTS, st.integers(1, 200))
def test_headings_of_a_piece_stand_in_the_text(text: str, max_tokens: int) -> None:
    for piece in split(text, max_tokens):
        assert all(heading in text for heading in piece.headings)


def test_headings_nest_and_leave_the_text() -> None:
    text = "intro\n# Travel\nby train\n## Hotels\n190 EUR\n## Meals\n40 EUR\n# Leave\n30 days"
    assert split(text, 100) == [
        Piece((), "intro"),
        Piece(("Travel",), "by train"),
        Piece(("Travel", "Hotels"), "190 EUR"),
        Piece(("Travel", "Meals"), "40 EUR"),
        Piece(("Leave",), "30 days"),
    ]


def test_heading_without_text_below_it_is_not_lost() -> None:
    text = "# Shops close at 18:00\n# Returns\nWithin 30 days."
    kept = " ".join(" ".join((*piece.headings, piece.text)) for piece in split(text, 100))
    assert "18:00" in kept


def test_hash_in_a_code_block_is_no_heading() -> None:
    (piece,) = split("# Set-up\n```\n# a comment\nrun\n```", 100)
    assert piece.headings == ("Set-up",)
    assert "# a comment" in piece.text


def test_paragraphs_share_a_piece_while_they_fit() -> None:
    text = "one two three\n\nfour five\n\nsix seven eight nine"
    assert [piece.text for piece in split(text, 5)] == [
        "one two three\nfour five",
        "six seven eight nine",
    ]


def test_long_paragraph_is_cut_between_sentences() -> None:
    text = "The first sentence is here. The second one follows it. The third ends."
    assert [piece.text for piece in split(text, 5)] == [
        "The first sentence is here.",
        "The second one follows it.",
        "The third ends.",
    ]


def test_text_without_words_gives_nothing() -> None:
    assert split("", 100) == split(" \n\t\n", 100) == []


@given(st.integers(1, 40), st.sampled_from(["\n\n", "\n", ". ", " "]))
def test_no_long_text_is_counted(max_tokens: int, between: str) -> None:
    """A tokenizer takes a hundred times the memory of what it counts."""
    counted: list[int] = []

    def count(text: str) -> int:
        counted.append(len(text))
        return words(text)

    text = between.join(["some words"] * 5000)
    pieces = chunking.split(text, max_tokens, count)
    assert [word for piece in pieces for word in piece.text.split()] == text.split()
    assert max(counted) <= 64 * max_tokens
