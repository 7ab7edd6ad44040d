"""What Prometheus finds at Ray's port of the running stack."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import STATE, Stack

_PATIENCE_S = 60.0  # Ray reports every ten seconds


def samples() -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of everything at the targets that Ray announces."""
    running = json.loads((STATE / "run.json").read_text(encoding="utf-8"))
    token = (Path.home() / ".ray" / "auth_token").read_text(encoding="ascii").strip()
    announced = httpx.get(
        f"http://{running['dashboard']}/api/prometheus/sd",
        headers={"authorization": f"Bearer {token}"},
        timeout=60,
    )
    for group in announced.json():
        for target in group["targets"]:
            try:
                told = httpx.get(f"http://{target}/metrics", timeout=20).text
            except httpx.ConnectError:
                continue  # announced, and not there yet: who asks looks again
            for family in text_string_to_metric_families(told):
                for sample in family.samples:
                    yield sample.name, dict(sample.labels), sample.value


def value(found: list[tuple[str, dict[str, str], float]], name: str, **labels: str) -> float:
    """The sum over all replicas of what has these labels."""
    return sum(
        number
        for each, told, number in found
        if each == f"ray_trivium_{name}" and labels.items() <= told.items()
    )


def test_roads_and_the_freshness_of_the_index_are_counted(stack: Stack) -> None:
    question = [{"role": "user", "content": "What is our return window?"}]
    with stack.http() as http:
        for model in ("trivium/knowledge", "trivium/frontier"):
            body = {"model": model, "messages": question, "max_tokens": 4}
            assert http.post("/v1/chat/completions", json=body).status_code == 200
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        found = list(samples())
        counted = {
            "answers": value(
                found, "answers_total", route="knowledge", outcome="ok", degraded="false"
            ),
            "degraded": value(
                found, "answers_total", route="frontier", outcome="ok", degraded="true"
            ),
            "lag": value(found, "index_lag_seconds_count"),
            "chunks": value(found, "index_chunks_total", embedded="true"),
        }
        if all(counted.values()):
            break
        assert time.monotonic() < deadline, counted
        time.sleep(0.5)
    # The live feed writes every three seconds, and Ray reports every ten.
    age = time.time() - value(found, "index_written_timestamp_seconds")
    assert 0 <= age < 60
    assert value(found, "index_lag_seconds_bucket", le="60.0") > 0
