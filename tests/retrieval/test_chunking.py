from __future__ import annotations

import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve_app.retrieval import chunking
from serve_app.retrieval.chunking import Piece
from serve_app.search_text import MAX_BYTES

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


_MARKS = re.compile(r"#{1,6}|=+|-+|`{3,}.*|~{3,}.*")  # of headings and fences, not words


def counted(text: str) -> Counter[str]:
    """Words, but for the marks that make headings of lines, and fences."""
    return Counter(word for word in text.split() if not _MARKS.fullmatch(word))


@given(TEXTS, st.integers(1, 200))
def test_no_word_is_lost(text: str, max_tokens: int) -> None:
    pieces = split(text, max_tokens)
    found = counted("\n".join(piece.text for piece in pieces))
    headings = {heading for piece in pieces for heading in piece.headings}
    for heading in headings:
        found += Counter({word: text.count(word) for word in heading.split()})
    assert counted(text) <= found


@given(TEXTS.filter(lambda text: "#" not in text and "`" not in text), st.integers(1, 200))
def test_no_word_of_prose_is_repeated_or_reordered(text: str, max_tokens: int) -> None:
    assume(not re.search(r"[|=~]|-\s*$", text, re.MULTILINE))
    words = [word for piece in split(text, max_tokens) for word in piece.text.split()]
    assert words == [word for word in text.split() if set(word) - set("-_*")]


@given(TEXTS, st.integers(1, 200))
def test_no_piece_is_empty_or_above_the_bound(text: str, max_tokens: int) -> None:
    for piece in split(text, max_tokens):
        assert piece.text.strip()
        assert words(piece.text) <= max_tokens
        assert len(piece.text.encode()) <= MAX_BYTES


@given(TEXTS, st.integers(1, 200))
def test_headings_of_a_piece_stand_in_the_text(text: str, max_tokens: int) -> None:
    said = " ".join(text.split())
    for piece in split(text, max_tokens):
        assert all(heading in said for heading in piece.headings)


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

    text = between.join(["some words"] * 1000)
    pieces = chunking.split(text, max_tokens, count)
    assert [word for piece in pieces for word in piece.text.split()] == text.split()
    assert max(counted) <= 64 * max_tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# A\n```make run```\n## B\nText", [(("A",), "```make run```"), (("A", "B"), "Text")]),
        ("~~~\n# no\n~~~\n# B\nText", [((), "~~~\n# no\n~~~"), (("B",), "Text")]),
        ("````\n```\n# no\n````\n# B\nText", [((), "````\n```\n# no\n````"), (("B",), "Text")]),
        ("```\n# no\n```py\n# no\n```", [((), "```\n# no\n```py\n# no\n```")]),
        ("- a\n\n  ```\n  # no\n  ```\n# B\nx", [((), "- a\n```\n  # no\n  ```"), (("B",), "x")]),
        ("    # no\n\n# B\nText", [((), "# no"), (("B",), "Text")]),
        ("Title\n=====\n\nPart\n----\nText", [(("Title", "Part"), "Text")]),
        ("# A #\nText", [(("A",), "Text")]),
        ("Before\n\n---\n\nAfter", [((), "Before\n\n---\nAfter")]),
        ("---\n\n# A\nText\n\n* * *", [(("A",), "Text\n* * *")]),
        ("#hash\n####### seven", [((), "#hash\n####### seven")]),
    ],
)
def test_blocks_are_told_as_markdown_does(
    text: str, expected: list[tuple[tuple[str, ...], str]]
) -> None:
    assert [(piece.headings, piece.text) for piece in split(text, 100)] == expected


def test_what_is_no_heading_is_text() -> None:
    long = "word " * 60
    assert split(f"# {'x' * 3000}\nText", 9)[-1].headings == ()
    assert split(f"{long}\n---\nText", 100)[0].headings == ()


HEAD = "| Region | Price |\n|---|---|"
ROWS = [f"| Region {number} | {number} EUR |" for number in range(40)]


@pytest.mark.parametrize(
    ("head", "rows"),
    [
        (HEAD, ROWS),
        ("Region | Price\n--- | ---", [row.strip("| ") for row in ROWS]),
        ("Region | Price", [row.strip("| ") for row in ROWS]),  # as our readers write it
        ("> | Region | Price |\n> |---|---|", [f"> {row}" for row in ROWS]),
    ],
)
def test_each_piece_of_a_long_table_names_its_columns(head: str, rows: list[str]) -> None:
    pieces = split("\n".join(["Before.", "", head, *rows, "", "After."]), 50)
    assert len(pieces) >= 5
    kept = [piece.text.removeprefix("Before.\n").removesuffix("\nAfter.") for piece in pieces]
    assert all(text.startswith(f"{head}\n") for text in kept)
    assert [row for text in kept for row in text.removeprefix(f"{head}\n").split("\n")] == rows


def test_row_with_one_cell_ends_no_table() -> None:
    rows = [row.strip("| ") for row in ROWS]
    pieces = split("\n".join(["Region | Price", *rows[:20], "Abroad", *rows[20:]]), 50)
    assert all(piece.text.startswith("Region | Price\n") for piece in pieces)


def test_row_longer_than_a_chunk_is_cut_below_the_names_of_its_columns() -> None:
    pieces = split(f"{HEAD}\n| {'word ' * 100}| 1 EUR |\n{ROWS[0]}", 40)
    assert all(piece.text.startswith(HEAD) for piece in pieces)
    assert sum(piece.text.count("word") for piece in pieces) == 100


@pytest.mark.parametrize("fence", ["```", "~~~", "`````"])
def test_each_piece_of_long_code_is_code_and_keeps_its_lines(fence: str) -> None:
    lines = [line for n in range(50) for line in (f"def f{n}():", f"    return  {n}  # x", "")]
    text = "\n".join(["# A", f"{fence}py", *lines, fence, "", "# B", "Text"])
    *pieces, last = split(text, 30)
    assert last == Piece(("B",), "Text")
    assert all(piece.headings == ("A",) for piece in pieces)
    bodies = []
    for piece in pieces:
        first, *body, closing = piece.text.split("\n")
        assert (first, closing) == (f"{fence}py", fence)
        bodies += body
    assert bodies == lines


@pytest.mark.parametrize(
    "line",
    [
        "第{}条规定：编号{}的帐篷与睡袋，可以到任何一家门店更换。",
        "เต็นท์และถุงนอนหมายเลข{}สามารถเปลี่ยนได้ที่ร้านค้าทุกแห่งภายใน{}วัน",
        "返品番号{}のテントと寝袋は、購入後{}日以内であればどの店舗でも交換できます。",
    ],
)
def test_scripts_without_blanks_are_split(line: str) -> None:
    """Also where the tokenizer takes a word of any length for one token."""
    text = "".join(line.format(number, number) for number in range(100))
    pieces = split(text, 40)
    assert len(pieces) > 10
    assert "".join(piece.text for piece in pieces) == text
    assert max(len(piece.text) for piece in pieces) <= 4 * 40
    assert not any(unicodedata.combining(piece.text[0]) for piece in pieces)


def test_a_word_of_any_length_stops_no_document() -> None:
    pieces = split(f"Code TOUCAN.\n\n{'QUJD' * 10_000}\n\nEnd.", 160)
    assert "TOUCAN" in pieces[0].text
    assert pieces[-1].text.endswith("End.")
    assert sum(piece.text.count("QUJD") for piece in pieces) == 10_000


def test_room_bounds_a_piece_below_long_headings() -> None:
    pieces = chunking.split("# A\n" + "word " * 50, 20, words, lambda headings: 5)
    assert {words(piece.text) for piece in pieces} == {5}
