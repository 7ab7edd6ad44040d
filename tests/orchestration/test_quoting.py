"""What is quoted, and when nothing is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.orchestration import quoting
from serve_app.orchestration.evidence import words
from tests.fixtures import CALIBRATION, chunk
from tests.orchestration.test_evidence import TEXTS

HOTELS = chunk("Book early. Hotels in Paris may cost EUR 190. Be polite.", title="Travel")
HEAD = "| Size | Weight |"
MARKDOWN = f"Sizes:\n{HEAD}\n| :--- | ---: |\n| M | 340 g |\n| L | 360 g |"
WORD = "Size | Weight\nM | 340 g\nL | 360 g"
CSV = "product: Fjell 2 Tent\nprice: EUR 449\nweight: 2.1 kg"


def quoted(query: str, *cosines: float, least: float = 0.25) -> list[str]:
    stated = quoting.statements(query, [HOTELS], 64)
    return [each.text for each in quoting.choose(query, stated, cosines, CALIBRATION, least)]


@given(TEXTS, st.lists(TEXTS, max_size=3), st.integers(1, 5), st.data())
def test_quotes_are_words_of_their_chunks(
    query: str, sources: list[str], limit: int, data: st.DataObject
) -> None:
    stated = quoting.statements(query, [chunk(text) for text in sources], limit)
    assert len(stated) <= limit
    cosines = [data.draw(st.floats(-1, 1)) for _ in stated]
    chosen = quoting.choose(query, stated, cosines, CALIBRATION, 0.0)
    assert bool(chosen) == bool(stated)
    assert len(chosen) <= 2
    for each in chosen:
        assert each.text
        assert set(each.text.split()) <= set(each.chunk.text.split())


def test_the_nearest_statement_is_quoted() -> None:
    assert quoted("What does a room cost?", 0.3, 0.6, 0.2) == ["Hotels in Paris may cost EUR 190."]


def test_the_words_of_the_question_decide_between_near_ones() -> None:
    asked = "What do hotels in Paris cost?"
    assert quoted(asked, 0.60, 0.55, 0.2) == ["Hotels in Paris may cost EUR 190."]


def test_two_that_are_as_near_are_both_quoted_in_the_order_of_their_chunk() -> None:
    assert quoted("?", 0.58, 0.2, 0.60) == ["Book early.", "Be polite."]


def test_the_nearer_of_two_chunks_comes_first() -> None:
    stated = quoting.statements("", [chunk("Book early."), chunk("Be polite.")], 64)
    chosen = quoting.choose("?", stated, [0.58, 0.60], CALIBRATION, 0.25)
    assert [each.text for each in chosen] == ["Be polite.", "Book early."]


@pytest.mark.parametrize(("cosine", "says"), [(0.39, 0), (0.41, 1)])
def test_nothing_is_quoted_when_nothing_is_near_enough(cosine: float, says: int) -> None:
    assert len(quoted("Hotels in Paris", -1.0, cosine, -1.0)) == says


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            MARKDOWN,
            ["Sizes:", "| Size | Weight |\n| M | 340 g |", "| Size | Weight |\n| L | 360 g |"],
        ),
        (WORD, ["Size | Weight\nM | 340 g", "Size | Weight\nL | 360 g"]),
        (CSV, [CSV]),
        ("One | row", ["One | row"]),
        ("Nothing but a rule:\n\n---", ["Nothing but a rule:"]),
    ],
    ids=["markdown", "word", "csv", "lone row", "rule"],
)
def test_rows_of_tables_come_with_their_columns(text: str, expected: list[str]) -> None:
    assert [each.text for each in quoting.statements("", [chunk(text)], 64)] == expected


def test_a_long_text_is_cut_to_what_shares_most_words() -> None:
    stated = quoting.statements("hotels in paris", [HOTELS], 1)
    assert [each.text for each in stated] == ["Hotels in Paris may cost EUR 190."]


def test_a_quote_says_what_it_is_about_once() -> None:
    section = chunk("The warranty is 3 years. The seal costs EUR 3.", title="Glod Stove")
    stated = quoting.statements("", [section, HOTELS], 64)
    texts = [text for text, _ in quoting.parts([stated[0], stated[1], stated[3]])]
    assert texts == [
        "Glod Stove: The warranty is 3 years.",
        "The seal costs EUR 3.",
        "Travel: Hotels in Paris may cost EUR 190.",
    ]


def test_headings_that_the_quote_repeats_are_left_out() -> None:
    live = chunk("Our revenue today was EUR 9.", title="Revenue today", heading="Shop › Revenue")
    (stated,) = quoting.statements("", [live], 64)
    assert stated.introduced() == "Shop: Our revenue today was EUR 9."
    assert words(stated.introduced()) >= words(stated.text)
