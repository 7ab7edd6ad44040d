"""What crosses process boundaries arrives as it was."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain import Decision, Delta, Term


@pytest.mark.parametrize("kind", [Decision, Delta, Term])
@given(st.data())
def test_it_comes_out_as_it_went_in(kind: type, data: st.DataObject) -> None:
    one = data.draw(st.builds(kind))
    # As text, as NaN is unlike itself.
    assert repr(pickle.loads(pickle.dumps(one))) == repr(one)
