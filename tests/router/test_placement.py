from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from serve_app.router.placement import Lanes

REPLICAS: list[Any] = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=i)) for i in "cab"]


async def ranks(lane: str) -> list[list[str]]:
    """The replicas for a call, by preference."""
    router = object.__new__(Lanes)  # its choice depends on nothing that it keeps
    pending: Any = SimpleNamespace(
        metadata=SimpleNamespace(session_id=lane),
        routing_context=SimpleNamespace(should_backoff=False),
    )
    found = await router.choose_replicas(list(REPLICAS), pending)
    return [[each.replica_id.unique_id for each in rank] for rank in found]


async def test_as_many_lanes_as_replicas_use_all_of_them_and_keep_theirs() -> None:
    firsts = [(await ranks(str(lane)))[0] for lane in range(3)]
    assert sorted(firsts) == [["a"], ["b"], ["c"]]
    assert [(await ranks(str(lane)))[0] for lane in range(3, 6)] == firsts


async def test_full_or_lost_replica_is_passed_over() -> None:
    first, others = await ranks("0")
    assert sorted(first + others) == ["a", "b", "c"]


async def test_call_without_a_lane_may_go_to_any() -> None:
    assert [sorted(rank) for rank in await ranks("")] == [["a", "b", "c"]]
