"""Drafts as they are written: sentences, the marks of their sources, and what is not stated."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.orchestration.drafting import Drafted, Drafting
from serve_app.orchestration.roles.claims import Claim, claimed
from serve_app.orchestration.roles.reflecting import Finding
from tests.fixtures import chunk

SOURCE = chunk("Anything.")


async def drafted(
    pieces: Sequence[str], *, sources: int = 3, streaming: bool = True
) -> tuple[Drafted, str]:
    """What becomes of a draft of which all is supported, and what was shown of it."""
    shown: list[str] = []

    async def check(claims: Sequence[Claim]) -> Sequence[Finding]:
        return [Finding("supported", SOURCE) for _ in claims]

    async with Drafting(check, sources, shown.append if streaming else None) as drafting:
        for piece in pieces:
            drafting.take(piece)
        done = await drafting.close()
    return done, "".join(shown)


WORDS = st.sampled_from(["Goods", "within", "30 days", "e.g. tents", "are kept", "Öl", "好"])
MARKS = st.sampled_from(["", " [1]", " [2, 3]", "[1][2]", " [Source 2]", " [1 0123456789ab]"])
SENTENCES = st.tuples(st.lists(WORDS, min_size=1, max_size=4), MARKS, st.booleans())


@given(st.lists(SENTENCES, min_size=1, max_size=6), st.integers(1, 9), st.booleans())
async def test_draft_is_shown_whole_and_without_marks_however_it_comes(
    sentences: list[tuple[list[str], str, bool]], size: int, streaming: bool
) -> None:
    """Whether marks stand before the stop or behind it, and wherever a piece ends."""
    bare = ["The " + " ".join(words) for words, _, _ in sentences]
    text = " ".join(
        f"{said}.{mark}" if behind else f"{said}{mark}."
        for said, (_, mark, behind) in zip(bare, sentences, strict=True)
    )
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    done, shown = await drafted(pieces, streaming=streaming)
    assert done.text == " ".join(f"{said}." for said in bare)
    assert shown == (done.text if streaming else "")
    for citation in done.citations:
        said = done.text[citation.start : citation.end]
        assert said == said.strip() != ""


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("A is 30 days [1]. B is 14 days [2].", [("A is 30 days.", (1,)), ("B is 14 days.", (2,))]),
        ("A is 30 days. [1] B holds. [2, 3]", [("A is 30 days.", (1,)), ("B holds.", (2, 3))]),
        ("A is 30 days.[1] B holds.[2]", [("A is 30 days.", (1,)), ("B holds.", (2,))]),
        ("A holds [99].", [("A holds.", ())]),
        ("Use items[0] for it.", [("Use items[0] for it.", ())]),
        ("It holds[2].", [("It holds.", (2,))]),
        ("[1]", []),
    ],
)
async def test_marks_name_the_sources_of_their_sentence(
    text: str, claims: list[tuple[str, tuple[int, ...]]]
) -> None:
    done, _ = await drafted([text])
    assert [(each.claim.text, each.claim.sources) for each in done.shown] == claims


@pytest.mark.parametrize(
    ("text", "shown", "missing"),
    [
        ("A holds [1].\nNOT STATED: B is not told.", "A holds.", "B is not told."),
        ("NOT STATED: B is not told. A holds [1].", "A holds.", "B is not told."),
        ("NOT STATED: All of it.", "", "All of it."),
        ("A holds [1]. NOT STATED: None.", "A holds.", ""),
        ("A holds [1]. NOT STATED.", "A holds.", ""),
        ("A holds [1]. NOT STATED: n/a", "A holds.", ""),
        ("", "", ""),
    ],
)
async def test_what_is_not_stated_is_told_apart(text: str, shown: str, missing: str) -> None:
    done, _ = await drafted([text])
    assert (done.text, done.missing) == (shown, missing)


async def test_lines_of_a_list_stay_lines() -> None:
    done, shown = await drafted(["Ways:\n- Post [1]\n- Shop [2]"])
    assert done.text == shown == "Ways:\n- Post\n- Shop"


def test_blanks_without_end_are_read_in_linear_time() -> None:
    """Twice as many used to take four times as long: seconds for a few thousand."""
    assert claimed("a" + " " * 200_000 + "b.", 1)
