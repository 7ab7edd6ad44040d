"""What Milvus will not have, and what it cannot do now: two things to a caller."""

from __future__ import annotations

import grpc
import pytest
from pymilvus import MilvusException
from pymilvus.exceptions import ConnectError, DataNotMatchException, ParamError

from serve_app.errors import KnowledgeRefused, Unavailable
from serve_app.retrieval.milvus import translated


class Remote(grpc.RpcError):  # type: ignore[misc]
    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    "error",
    [
        ParamError(message="limit must be positive"),
        DataNotMatchException(message="the length does not match"),
        MilvusException(1100, "the length of field title exceeds max length"),
        MilvusException(6, "illegal argument"),
        MilvusException(65535, "cannot parse expression: ((("),
        MilvusException(9999, "newer", is_input_error=True),
        Remote(grpc.StatusCode.INVALID_ARGUMENT),
        Remote(grpc.StatusCode.RESOURCE_EXHAUSTED, "Sent message larger than max (1 vs. 0)"),
    ],
)
def test_a_refusal_is_the_callers_to_mend(error: Exception) -> None:
    with pytest.raises(KnowledgeRefused) as told, translated():
        raise error
    assert told.value.status == 400


@pytest.mark.parametrize(
    "error",
    [
        MilvusException(8, "rate limit"),
        MilvusException(101, "not loaded"),
        MilvusException(700, "no index"),
        MilvusException(65535, "node offline"),
    ],
)
def test_what_it_cannot_do_now_is_not_said_to_be_out_of_reach(error: Exception) -> None:
    with pytest.raises(Unavailable, match="cannot do this now"), translated():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ConnectError(message="no"),
        MilvusException(2, "Fail connecting to server"),
        Remote(grpc.StatusCode.UNAVAILABLE),
        Remote(grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_what_does_not_answer_is_not_reachable(error: Exception) -> None:
    with pytest.raises(Unavailable, match="not reachable"), translated():
        raise error
