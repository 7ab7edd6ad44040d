"""Any one replica is killed under load. Named to run last: the engine takes a while to return."""

from __future__ import annotations

import threading
import time
from collections import Counter

import httpx
import psutil
import pytest

from tests.integration.conftest import Stack

_RECOVERY_S = 150.0


class Load:
    """Two clients that ask again and again, one for each given model, until told to stop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._ask, args=(model,))
            for model in ("trivium/auto", "trivium/knowledge")
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, model: str) -> None:
        with httpx.Client(timeout=60.0) as http:
            while not self._stop.is_set():
                self.outcomes[ask(http, self._url, model)] += 1


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
    with Load(stack.url) as load, httpx.Client(timeout=60.0) as http:
        while not load.outcomes["ok"]:
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
            assert time.monotonic() - killed < _RECOVERY_S, dict(load.outcomes)
            time.sleep(0.2)
        seconds = time.monotonic() - killed
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)
    print(f"\n{deployment}: back after {seconds:.1f} s; load saw {dict(load.outcomes)}")
