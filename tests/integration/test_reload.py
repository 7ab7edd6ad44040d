"""New settings, heads and policies for a running stack, under load."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.cli.local import RunFile
from serve_app.router.heads import SHIPPED
from serve_app.router.policy import DEFAULT
from tests.integration.callers import repeated
from tests.integration.conftest import PLANTED, ROOT, STATE, Stack
from tests.integration.draining import streamed

HARD = "Plan the migration of our order database without downtime, step by step, with rollbacks."
CALLERS = 4
DEPLOYMENTS = ("Gateway", "Router", "Retriever", "Frontier", "Expert")


def policy(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "policy.yaml"
    data = {**yaml.safe_load(DEFAULT.read_text(encoding="utf-8")), **changes}
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def decision(stack: Stack, query: str = HARD) -> dict[str, Any]:
    with stack.http() as http:
        made: dict[str, Any] = http.post("/v1/route", json={"query": query}).json()
    return made


@pytest.fixture
def restored(stack: Stack) -> Iterator[None]:
    yield
    assert stack.cli("reload").returncode == 0


@pytest.mark.usefixtures("restored")
def test_new_heads_and_policy_are_taken_without_a_failed_request(
    stack: Stack, tmp_path: Path
) -> None:
    assert decision(stack)["route"] == "frontier"
    heads = tmp_path / "copy.safetensors"
    heads.write_bytes(SHIPPED.read_bytes())
    pinned = policy(tmp_path, pins=[{"name": "house rule", "never": ["frontier"]}])
    statuses: Counter[int] = Counter()
    http = stack.http()

    def call() -> None:
        statuses[http.post("/v1/route", json={"query": HARD}).status_code] += 1

    with http, repeated(*[call] * CALLERS):
        done = stack.cli("reload", "--policy", str(pinned), "--heads", str(heads))
        assert done.returncode == 0, done.stderr
        made = decision(stack)
        assert made["route"] != "frontier"
        assert "frontier is barred (house rule)" in made["reason"]
        assert stack.cli("reload").returncode == 0
        assert decision(stack)["route"] == "frontier"
    assert set(statuses) == {200}
    assert sum(statuses.values()) > 20


def limits(stack: Stack) -> list[float]:
    """What the house may spend in a month, as it is told to a caller."""
    with stack.http() as http:
        told = http.get("/v1/usage").json()["limits"]
    return [each["limit"] for each in told if each["unit"] == "usd"]


@pytest.mark.usefixtures("restored")
def test_changed_settings_reach_running_replicas_and_no_answer_is_lost(
    stack: Stack, tmp_path: Path
) -> None:
    before = {name: stack.replicas(name) for name in DEPLOYMENTS}
    outcomes: Counter[str] = Counter()
    client = stack.openai()

    def stream() -> None:
        outcomes[streamed(client)] += 1

    def house(usd: int) -> str:
        return json.dumps([{"of": "house", "per": "month", "usd": usd}])

    pinned = policy(tmp_path, pins=[{"name": "house rule", "never": ["frontier"]}])
    with repeated(*[stream] * CALLERS):
        for usd in (2000, 3000):
            done = stack.cli("reload", TRIVIUM_LEDGER__LIMITS=house(usd))
            assert done.returncode == 0, done.stderr
            assert limits(stack) == [usd]
        done = stack.cli("reload", "--policy", str(pinned))
        assert done.returncode == 0, done.stderr
        begun = outcomes.total()
        while outcomes.total() < begun + CALLERS:
            time.sleep(0.05)
    assert set(outcomes) == {"whole"}, outcomes
    assert {name: stack.replicas(name) for name in DEPLOYMENTS} == before
    assert limits(stack) == [1000]


def test_no_secret_is_in_what_ray_keeps() -> None:
    addresses = RunFile(STATE / "run.json").addresses()
    assert addresses is not None
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.kept", addresses.dashboard, addresses.ray],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    # It was looked at where Serve keeps its applications.
    assert b"serve_app.app:trivium" in done.stdout
    assert b"RouterServer" in done.stdout
    assert PLANTED.encode() not in done.stdout


@pytest.mark.usefixtures("restored")
def test_new_pin_holds_for_a_road_that_is_named(stack: Stack, tmp_path: Path) -> None:
    def refused() -> str | None:
        asked = {"model": "trivium/frontier", "messages": [{"role": "user", "content": "Hello"}]}
        with stack.http() as http:
            body = http.post("/v1/chat/completions", json={**asked, "max_tokens": 1}).json()
        code: str | None = body.get("error", {}).get("code")
        return code

    assert refused() != "road_barred"
    pinned = policy(tmp_path, pins=[{"name": "house rule", "never": ["frontier"]}])
    assert stack.cli("reload", "--policy", str(pinned)).returncode == 0
    # Gateways look at the policy every two seconds.
    deadline = time.monotonic() + 10
    while refused() != "road_barred":
        assert time.monotonic() < deadline


def test_bad_heads_and_policies_are_refused_and_the_old_ones_stay(
    stack: Stack, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(SHIPPED.read_bytes()[:4000])
    roads = {"mars": {"cost_usd": 1, "success": {}}}
    for arguments, hint in (
        (("--heads", str(bad)), "router heads cannot be read"),
        (("--policy", str(policy(tmp_path, roads=roads))), "roads"),
    ):
        done = stack.cli("reload", *arguments)
        assert done.returncode == 2, done.stderr
        assert hint in done.stderr
    assert decision(stack)["route"] == "frontier"


@pytest.mark.usefixtures("restored")
def test_second_stage_decides_in_doubt_and_being_late_changes_nothing(
    stack: Stack, tmp_path: Path
) -> None:
    always = {"below": 1.0, "timeout_s": 2.4, "weight": 0.5}
    assert (
        stack.cli("reload", "--policy", str(policy(tmp_path, second_stage=always))).returncode == 0
    )
    deadline = time.monotonic() + 60
    # The first constrained answer compiles its grammar, which may come too late.
    while (made := decision(stack))["stage"] != "2":
        assert made["stage"] == "1"
        assert time.monotonic() < deadline
    late = {**always, "timeout_s": 0.001}
    assert stack.cli("reload", "--policy", str(policy(tmp_path, second_stage=late))).returncode == 0
    assert decision(stack)["stage"] == "1"
