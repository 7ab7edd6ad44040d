"""Any one replica is killed under load. Named to run last: the engine takes a while to return."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial

import httpx
import psutil
import pytest

from tests.integration.callers import repeated
from tests.integration.conftest import Stack, alive

_RECOVERY_S = 150.0


def ask(http: httpx.Client, url: str, model: str) -> str:
    """`ok`, `degraded`, the error's code, or `connection lost`."""
    try:
        response = http.post(
            f"{url}/v1/chat/completions",
            json={
                "model": model,
                "messages": [{"role": "user", "content": "What is our return window?"}],
                "max_tokens": 8,
            },
        )
    except httpx.HTTPError:
        return "connection lost"
    if response.status_code == 200:
        return "degraded" if "x-trivium-degraded" in response.headers else "ok"
    try:
        return str(response.json()["error"]["code"])
    except ValueError:
        return f"HTTP {response.status_code}"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("deployment", ["Router", "Retriever", "Frontier", "Gateway", "Expert"])
def test_killed_replica_comes_back(stack: Stack, deployment: str) -> None:
    outcomes: Counter[str] = Counter()
    http = httpx.Client(timeout=60.0)

    def call(model: str) -> None:
        outcomes[ask(http, stack.url, model)] += 1

    calls = [partial(call, model) for model in ("trivium/auto", "trivium/knowledge")]
    with http, repeated(*calls):
        while not outcomes["ok"]:
            time.sleep(0.1)
        (victim,) = stack.replicas(deployment)
        family = [victim, *victim.children(recursive=True)]
        victim.kill()
        killed = time.monotonic()
        psutil.wait_procs([victim], timeout=10)

        # Recovered: a new process, and every road answers without a detour.
        def recovered() -> bool:
            return bool(stack.replicas(deployment)) and all(
                ask(http, stack.url, model) == "ok"
                for model in ("trivium/auto", "trivium/expert", "trivium/knowledge")
            )

        while not recovered():
            assert time.monotonic() - killed < _RECOVERY_S, dict(outcomes)
            time.sleep(0.2)
        seconds = time.monotonic() - killed
    assert not any(map(alive, family))
    if deployment == "Retriever":
        # Nobody who knows no facts has answered meanwhile.
        assert not outcomes["degraded"], dict(outcomes)
    print(f"\n{deployment}: back after {seconds:.1f} s; load saw {dict(outcomes)}")
