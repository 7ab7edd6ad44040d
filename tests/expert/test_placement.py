"""Which replica of the expert a request goes to."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
)
from ray.serve.request_router import PendingRequest

from serve_app.cli.local import RAY_ENVIRONMENT
from serve_app.domain import Generation, Message, Release, RequestContext
from serve_app.expert.placement import PrefixAffinity, request_routing
from serve_app.settings import ExpertSettings
from tests.conftest import ROOT
from tests.integration.conftest import free_ports

EXPERT = DeploymentID("Expert")
LONG = "What the house says of tents, at length. " * 100
HOUSE = Release("house", 1)


@dataclass
class Replica:
    """Stands where a replica's actor would."""

    replica_id: ReplicaID
    queue: int = 0
    max_ongoing_requests: int = 64
    multiplexed_model_ids: set[str] = field(default_factory=set)
    node_id: str = "node"
    availability_zone: str | None = None

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.queue


class Caller:
    """A gateway's request router, and what it was told of replicas."""

    def __init__(self, names: str) -> None:
        self.pool = {name: Replica(ReplicaID(name, EXPERT)) for name in names}
        self.router = PrefixAffinity(
            deployment_id=EXPERT,
            handle_source=DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
        )
        self.router.initialize_state()
        self.router.update_replicas(list(self.pool.values()))
        self._count = 0

    def busy(self, **queues: int) -> None:
        for name, queue in queues.items():
            self.pool[name].queue = queue
            self.router.on_new_queue_len_info(self.pool[name].replica_id, queue)

    def loaded(self, adapter: Release, *names: str) -> None:
        for name in names:
            self.pool[name].multiplexed_model_ids.add(str(adapter))
        self.router.update_replicas(list(self.pool.values()))

    async def ask(self, *texts: str, adapter: Release | None = None) -> str:
        """The replica that is chosen."""
        self._count += 1
        metadata = RequestMetadata(
            "request", f"{self._count}", multiplexed_model_id=str(adapter or "")
        )
        turns = tuple(Message("user", text) for text in texts)
        call = PendingRequest(
            args=[RequestContext("test", 0.0), Generation(turns, 8, adapter=adapter)],
            kwargs={},
            metadata=metadata,
        )
        async with asyncio.timeout(5):
            replica: Any = await self.router._choose_replica_for_request(call)
        self.router.on_request_routed(call, replica.replica_id, None)
        return str(replica.replica_id.unique_id)


async def caller_of(names: str) -> Caller:
    caller = Caller(names)
    caller.busy(**dict.fromkeys(names, 0))
    return caller


async def test_what_begins_alike_goes_to_who_has_read_it() -> None:
    caller = await caller_of("abcd")
    first = await caller.ask(LONG, "a question")
    caller.busy(**{first: 2})  # others have less to do
    assert {await caller.ask(LONG, f"another, {n}") for n in range(20)} == {first}


async def test_longest_beginning_decides() -> None:
    """Two conversations under the same instructions, each on its own replica."""
    caller = await caller_of("ab")
    caller.busy(a=4)
    assert await caller.ask(LONG, "One. " * 500) == "b"
    caller.busy(a=0, b=20)
    assert await caller.ask(LONG, "Two. " * 500) == "a"
    caller.busy(a=1, b=1)
    for _ in range(5):
        assert await caller.ask(LONG, "One. " * 500, "and then?") == "b"
        assert await caller.ask(LONG, "Two. " * 500, "and then?") == "a"


async def test_replica_with_more_than_its_share_is_passed_over() -> None:
    caller = await caller_of("ab")
    first = await caller.ask(LONG)
    other = "b" if first == "a" else "a"
    caller.busy(**{first: 12, other: 8})
    assert await caller.ask(LONG) == first
    caller.busy(**{first: 20, other: 4})
    assert await caller.ask(LONG) == other


async def test_replica_that_has_gone_is_forgotten() -> None:
    caller = await caller_of("ab")
    first = await caller.ask(LONG)
    del caller.pool[first]
    caller.router.update_replicas(list(caller.pool.values()))
    assert await caller.ask(LONG) in caller.pool


async def test_adapters_stay_where_they_are_loaded_until_those_are_busy() -> None:
    caller = await caller_of("abc")
    caller.loaded(HOUSE, "b")
    assert await caller.ask(LONG) in "abc"
    assert {await caller.ask(LONG, adapter=HOUSE) for _ in range(10)} == {"b"}
    caller.busy(b=20)
    assert await caller.ask(LONG, adapter=HOUSE) in "ac"


async def test_adapter_that_is_being_loaded_is_not_loaded_elsewhere() -> None:
    caller = await caller_of("abcd")
    first = await caller.ask("short", adapter=HOUSE)
    caller.busy(**{first: 1})
    assert {await caller.ask(f"short {n}", adapter=HOUSE) for n in range(10)} == {first}


async def test_short_prompt_goes_to_the_shorter_queue() -> None:
    caller = await caller_of("ab")
    caller.busy(a=1)
    assert {await caller.ask("hello") for _ in range(10)} == {"b"}


async def test_one_replica_is_taken_without_a_look_at_the_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def looked(_: Any) -> Any:
        raise AssertionError("the prompt was read")

    monkeypatch.setattr("serve_app.expert.placement._beginnings", looked)
    caller = await caller_of("a")
    assert await caller.ask(LONG) == "a"


def test_without_a_cache_there_is_nothing_to_gain() -> None:
    assert request_routing(ExpertSettings())
    assert not request_routing(ExpertSettings(engine={"enable_prefix_caching": False}))


@pytest.fixture
def haproxy() -> Iterator[dict[str, str]]:
    """The environment of a Serve with HAProxy that meets no other on this machine."""
    metrics, stats = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="haproxy-") as folder:
        yield {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        }


@pytest.mark.timeout(300)
def test_behind_haproxy_a_document_has_one_replica_and_a_load_is_spread(
    haproxy: dict[str, str],
) -> None:
    (port,) = free_ports(1)
    done = subprocess.run(
        [sys.executable, "-m", "tests.expert.prefixes", str(port)],
        cwd=ROOT,
        env={**os.environ, **RAY_ENVIRONMENT, **haproxy, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.strip().splitlines()[-1])
    for answers in (*told["documents"], *told["adapters"]):
        assert len(set(answers)) == 1, told
    for under_load in ("under load", "adapter under load"):
        assert len(set(told[under_load])) == 2, told
    assert told["replicas"] == {"Expert": 2, "Ingress": 0}
