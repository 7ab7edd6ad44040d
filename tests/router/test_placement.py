from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import pytest
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
)
from ray.serve.request_router import PendingRequest

from serve_app.router.placement import Lanes

ROUTER = DeploymentID("Router")


@dataclass
class Replica:
    """Stands where a replica's actor would."""

    replica_id: ReplicaID
    queue: int = 0
    asked: int = 0
    max_ongoing_requests: int = 5

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.asked += 1
        return self.queue


Pool = dict[str, Replica]


@pytest.fixture
def pool() -> Pool:
    return {name: Replica(ReplicaID(name, ROUTER)) for name in "abc"}


@pytest.fixture
async def lanes(pool: Pool) -> Lanes:
    return await caller_of(pool)


async def caller_of(pool: Pool) -> Lanes:
    made = Lanes(ROUTER, DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True)
    show(made, pool)
    for _ in range(100):  # turns of the loop, in which it learns how long the queues are
        await asyncio.sleep(0)
    return made


def show(lanes: Lanes, pool: Pool) -> None:
    """What Serve tells a caller of its replicas, in any order."""
    lanes.update_replicas(random.sample(list(pool.values()), len(pool)))


async def chosen(lanes: Lanes, lane: int | None, request: str = "") -> str:
    session = "" if lane is None else str(lane)
    metadata = RequestMetadata("request", request or f"{lane}", session_id=session)
    call = PendingRequest(args=[], kwargs={}, metadata=metadata)
    async with asyncio.timeout(5):
        replica: Any = await lanes._choose_replica_for_request(call)
    return str(replica.replica_id.unique_id)


async def test_neighbouring_lanes_lead_to_different_replicas_and_always_to_the_same(
    lanes: Lanes, pool: Pool
) -> None:
    first = [await chosen(lanes, lane) for lane in range(7)]
    assert all(len(set(first[i : i + 3])) == 3 for i in range(5))
    for _ in range(10):
        show(lanes, pool)
        assert [await chosen(lanes, lane) for lane in range(7)] == first


async def test_full_replica_is_passed_over(lanes: Lanes, pool: Pool) -> None:
    usual = await chosen(lanes, 0)
    full = pool[usual]
    full.queue = full.max_ongoing_requests
    lanes.on_new_queue_len_info(full.replica_id, full.queue)
    assert await chosen(lanes, 0) != usual


async def test_call_without_a_lane_goes_to_the_shortest_queue(lanes: Lanes, pool: Pool) -> None:
    for name, queue in {"a": 3, "b": 1, "c": 2}.items():
        lanes.on_new_queue_len_info(pool[name].replica_id, queue)
    assert await chosen(lanes, None) == "b"


@pytest.mark.parametrize("lane", [None, 0])
async def test_full_replicas_are_asked_again_with_pauses(pool: Pool, lane: int | None) -> None:
    for replica in pool.values():
        replica.queue = replica.max_ongoing_requests
    waiting = asyncio.create_task(chosen(await caller_of(pool), lane))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert max(replica.asked for replica in pool.values()) < 10
    for replica in pool.values():
        replica.queue = 0
    assert await waiting in pool


async def test_two_calls_of_one_request_both_find_a_replica(lanes: Lanes, pool: Pool) -> None:
    found = await asyncio.gather(chosen(lanes, 0, "same"), chosen(lanes, 1, "same"))
    assert len(set(found)) == 2
