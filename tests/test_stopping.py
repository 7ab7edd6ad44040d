"""Stop sequences and bounds kept by rule, whatever pieces a text comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.stopping import Stop

letters = st.text("abc ", max_size=40)


@given(st.lists(letters, max_size=8), st.lists(st.text("abc ", min_size=1, max_size=4), max_size=4))
def test_text_ends_before_the_first_stop_sequence_in_whatever_pieces(
    pieces: list[str], sequences: list[str]
) -> None:
    whole = "".join(pieces)
    stop = Stop(sequences)
    said = "".join([stop.piece(each) for each in pieces]) + stop.rest()
    ends = [at for each in sequences if (at := whole.find(each)) >= 0]
    if stop.reason is None:
        assert not ends
        assert said == whole
    else:
        # The one that was whole first: a longer one may have begun before it.
        assert whole.startswith(said)
        assert any(whole[len(said) :].startswith(each) for each in sequences)
        assert not any(each in said for each in sequences)


@given(st.lists(st.text(max_size=20), max_size=8), st.integers(1, 30))
def test_bound_is_never_passed(pieces: list[str], bound: int) -> None:
    stop = Stop(max_tokens=bound)
    said = "".join([stop.piece(each) for each in pieces]) + stop.rest()
    assert "".join(pieces).startswith(said)
    assert (stop.reason == "length") == (said != "".join(pieces))
    # No fewer than a token for each four letters.
    assert len(said.split()) <= bound
    assert sum(map(str.isalpha, said)) <= 4 * bound


def test_what_follows_the_end_is_not_said() -> None:
    stop = Stop(["END"])
    assert [stop.piece(each) for each in ("a E", "ND b", "c")] == ["a ", "", ""]
    assert (stop.rest(), stop.reason) == ("", "stop")


@pytest.mark.parametrize("text", ["a" * 50, "ab" * 25, " " * 50])
def test_long_texts_in_many_pieces_are_soon_ended(text: str) -> None:
    stop = Stop(["aaaab"], 10**9)
    assert sum(len(stop.piece(text)) for _ in range(4000)) + len(stop.rest()) == 200_000
