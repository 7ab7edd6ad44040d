from __future__ import annotations

import pickle

import pytest

from serve_app.errors import InvalidRequest, Overloaded, TriviumError


@pytest.mark.parametrize(
    "error",
    [
        Overloaded("full", retry_after_s=1.5),
        InvalidRequest("wrong", param="messages[0].role"),
    ],
)
def test_error_crosses_processes_whole(error: TriviumError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert copy.envelope() == error.envelope()
    assert copy.retry_after_s == error.retry_after_s
