"""Which of Milvus's errors may pass, and which would come again."""

from __future__ import annotations

import pytest
from pymilvus import MilvusException
from pymilvus.exceptions import ParamError

from serve_app.errors import KnowledgeRefused, TriviumError, Unavailable
from serve_app.retrieval.milvus import Milvus, translated


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MilvusException(65535, "cannot parse expression: a ==="), KnowledgeRefused),
        (MilvusException(1100, "invalid parameter"), KnowledgeRefused),
        (MilvusException(1, "anything", is_input_error=True), KnowledgeRefused),
        (MilvusException(6, "field 'x' has type VARCHAR"), KnowledgeRefused),
        (ParamError(message="`limit` value 0 is illegal"), KnowledgeRefused),
        (MilvusException(1100, "try again", retriable=True), Unavailable),
        (MilvusException(65535, "etcdserver: request timed out"), Unavailable),
        (MilvusException(8, "rate limit exceeded"), Unavailable),
        (MilvusException(2, "service unavailable"), Unavailable),
    ],
)
def test_what_would_come_again_is_not_said_to_pass(
    error: MilvusException, kind: type[TriviumError]
) -> None:
    with pytest.raises(kind) as raised, translated():
        raise error
    assert type(raised.value) is kind
    assert "not reachable" not in raised.value.message or error.code == 2


def test_an_index_that_is_not_there_is_named_as_such() -> None:
    with pytest.raises(Unavailable, match="trivium collections check"), translated():
        raise MilvusException(100, "collection not found")


@pytest.mark.parametrize(
    ("said", "reads"),
    [
        ("failed to search/query delegator 1: fail to Query: service internal error", 3),
        ("etcdserver: request timed out", 1),
    ],
)
async def test_a_read_that_trips_over_a_write_is_read_again_and_no_other(
    said: str, reads: int
) -> None:
    milvus = Milvus("http://127.0.0.1:1", "", timeout_s=1)
    asked: list[str] = []

    async def read() -> str:
        asked.append(said)
        raise MilvusException(65535, said)

    with pytest.raises(Unavailable):
        await milvus.read("index", read)
    assert len(asked) == reads
    await milvus.close()
