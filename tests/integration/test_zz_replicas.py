"""Any one replica is killed under load, and Serve's controller, as a head that dies takes it along.
Named to run last: the engine takes a while to return."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serve_app.cli.local import RunFile
from tests.integration.callers import repeated
from tests.integration.conftest import STATE, Stack, alive

_RECOVERY_S = 150.0
DEPLOYMENTS = ("Router", "Retriever", "Frontier", "Gateway", "Expert")


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
def test_a_controller_that_dies_leaves_replicas_alone(stack: Stack) -> None:
    """Another one takes its place and asks every replica who it is."""
    outcomes: Counter[str] = Counter()
    before = {name: pids(stack, name) for name in DEPLOYMENTS}
    http = httpx.Client(timeout=60.0)

    def call() -> None:
        outcomes[ask(http, stack.url, "trivium/expert")] += 1

    with http, repeated(call):
        (victim,) = stack.processes("ray::ServeController")
        former = controller(http)
        victim.kill()
        deadline = time.monotonic() + _RECOVERY_S
        while not (recovered(http) and controller(http) != former):
            assert time.monotonic() < deadline, dict(outcomes)
            time.sleep(0.2)
        answered = outcomes["ok"]
        while outcomes["ok"] < answered + 5:
            assert time.monotonic() < deadline, dict(outcomes)
            time.sleep(0.2)
    assert set(outcomes) == {"ok"}, dict(outcomes)
    assert {name: pids(stack, name) for name in DEPLOYMENTS} == before


def pids(stack: Stack, deployment: str) -> set[int]:
    return {each.pid for each in stack.replicas(deployment)}


def serve(http: httpx.Client) -> Any:
    """What Ray's dashboard says of Serve; nothing while nobody answers it."""
    addresses = RunFile(STATE / "run.json").addresses()
    assert addresses is not None
    token = (Path.home() / ".ray" / "auth_token").read_text(encoding="utf-8").strip()
    url = f"http://{addresses.dashboard}/api/serve/applications/"
    answer = http.get(url, headers={"authorization": f"Bearer {token}"})
    assert answer.status_code not in (401, 403)
    return answer.json() if answer.status_code == 200 else {}


def controller(http: httpx.Client) -> str:
    return str(serve(http).get("controller_info", {}).get("worker_id"))


def recovered(http: httpx.Client) -> bool:
    """Whether every replica that is to be there is, by the controller's own word."""
    applications = serve(http).get("applications", {})
    deployments = [d for each in applications.values() for d in each["deployments"].values()]
    states = [each["state"] for found in deployments for each in found["replicas"]]
    healthy = all(each["status"] == "HEALTHY" for each in deployments)
    return healthy and len(states) >= len(DEPLOYMENTS) and set(states) == {"RUNNING"}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
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
