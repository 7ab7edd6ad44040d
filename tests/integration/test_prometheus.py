"""A real Prometheus at the running stack: what is documented is there, what is drawn has data."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serve_app.telemetry.drift import FILE, History
from tests.integration.conftest import ROOT, STATE, Stack
from tests.integration.test_adapters import SHIPPED, serves, until
from tests.telemetry import names
from tests.telemetry.prometheus import Prometheus, scraping
from tools.dashboards.__main__ import DASHBOARDS
from tools.dashboards.pictures import Source, draw

# What a laptop's stack cannot have, and why.
ABSENT = {
    "ray_node_gpus_utilization": "there is no GPU",
    "ray_node_gram_used": "there is no GPU",
    "ray_trivium_circuit_open": "no provider is configured",
    "ray_trivium_source_lag_seconds": "the settings name no source",
    "ray_trivium_source_failures": "the settings name no source",
    "ray_trivium_ledger_overclaimed_total": "counted from its first event on: no provider is there",
    "ray_vllm_num_preemptions_total": "counted from its first event on: memory never ran out",
}
ADAPTER = "house-style"
HISTORY = STATE / "adapters" / ADAPTER / FILE
PICTURES = STATE / "dashboards"

_PATIENCE_S = 100.0  # Ray reports every ten seconds


def targets() -> list[str]:
    """Where Ray says that its metrics are."""
    running = json.loads((STATE / "run.json").read_text(encoding="utf-8"))
    token = (Path.home() / ".ray" / "auth_token").read_text(encoding="ascii").strip()
    announced = httpx.get(
        f"http://{running['dashboard']}/api/prometheus/sd",
        headers={"authorization": f"Bearer {token}"},
        timeout=60,
    )
    return [target for group in announced.json() for target in group["targets"]]


def ask(stack: Stack) -> None:
    """A question down each road, one through an adapter, one that must be degraded, one refused.

    One of the answers is judged: where nobody judged there is no cost of a success.
    """
    draft = (ROOT / "configs" / "demo" / "house_style" / "test.jsonl").read_text(encoding="utf-8")
    styled = json.loads(draft.splitlines()[0])["messages"][:-1]
    returns = [{"role": "user", "content": "How many days do customers have to return goods?"}]
    polite = [{"role": "user", "content": "Rewrite politely: send me the report now."}]
    # Long enough for blocks of the KV-cache that the next time are found there.
    lengthy = [{"role": "user", "content": "Summarise this. " + "Tents are sold by size. " * 90}]
    with stack.http() as http:
        for model, messages, status in (
            ("trivium/auto", returns, 200),
            ("trivium/auto", polite, 200),
            ("trivium/knowledge", returns, 200),
            ("trivium/expert", polite, 200),
            ("trivium/expert", lengthy, 200),
            (f"trivium/expert:{ADAPTER}", styled, 200),
            ("trivium/frontier", returns, 200),
            ("trivium/expert", [{"role": "user", "content": "long " * 9000}], 400),
        ):
            body = {"model": model, "messages": messages, "max_completion_tokens": 24}
            answer = http.post("/v1/chat/completions", json=body)
            assert answer.status_code == status, (model, answer.text)
            if model == "trivium/knowledge":
                http.post("/v1/feedback", json={"id": answer.json()["id"], "good": True})


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes the stack, of which a canary has been replayed."""
    until(serves(stack, ADAPTER, SHIPPED))
    record = {"adapter": ADAPTER, "version": SHIPPED, "time": time.time(), "alerts": []}
    scores = {"adherence": 0.97, "faithfulness": 0.99, "fields": 0.93}
    History.of(str(STATE / "adapters"), ADAPTER).add({**record, "scores": scores})
    with scraping(targets(), names.RULES, tmp_path_factory.mktemp("prometheus")) as running:
        yield running
    HISTORY.unlink()


@pytest.mark.timeout(300)
def test_every_metric_that_is_documented_is_there(stack: Stack, prometheus: Prometheus) -> None:
    wanted = names.documented()
    assert ABSENT.keys() <= wanted.keys()
    suffix = {"histogram": "_bucket"}
    spelt = {name: name + suffix.get(kind, "") for name, kind in wanted.items()}
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        ask(stack)
        there = prometheus.names()
        missing = {name for name, told in spelt.items() if told not in there} - ABSENT.keys()
        if not missing:
            break
        assert time.monotonic() < deadline, sorted(missing)


def test_their_types_are_those_documented(prometheus: Prometheus) -> None:
    told = prometheus.get("metadata")
    for name, kind in names.documented().items():
        if name in told:
            assert {each["type"] for each in told[name]} == {kind}, name


def test_the_rules_are_evaluated_without_an_error(prometheus: Prometheus) -> None:
    groups = prometheus.get("rules")["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert len(evaluated) == len(names.rules())
    assert [rule for rule in evaluated if rule.get("lastError")] == []


@pytest.mark.timeout(300)
def test_every_panel_shows_something_of_real_traffic(stack: Stack, prometheus: Prometheus) -> None:
    """And is drawn, so that people can look at it: in `PICTURES`."""
    excused = {
        where.partition(": ")[2]
        for where, query in names.queries()
        if names.named(query) & ABSENT.keys()
    }
    PICTURES.mkdir(exist_ok=True)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        ask(stack)
        source = Source(prometheus.url, time.time(), 300)
        empty = {
            title
            for dashboard in DASHBOARDS
            for title in draw(dashboard, source, PICTURES / f"{dashboard.uid}.png")
        }
        if empty <= excused:
            break
        assert time.monotonic() < deadline, sorted(empty - excused)
