"""What is counted, and that every label comes from a closed set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from serve_app import errors
from serve_app.domain import Cost, ModelCall, Route, Usage
from serve_app.gateway.accounting import UNWRITTEN
from serve_app.orchestration.knowledge import NO_EVIDENCE
from serve_app.orchestration.state import reason
from serve_app.telemetry import metrics
from serve_app.telemetry.metrics import GatewayMetrics, IndexMetrics, StandingMetrics
from tests.fixtures import decision
from tests.telemetry.conftest import Kept

COST = Cost(0.25, {"answer": 0.25}, baseline=0.5, all_frontier=1.0)
CALL = ModelCall("small", "answer", Usage(10, 3))


def answered(kept: Kept, outcome: str = "ok", *degraded: str, stage: str = "1") -> GatewayMetrics:
    made = decision(Route.EXPERT)
    object.__setattr__(made, "stage", stage)
    counted = GatewayMetrics()
    counted.answered(made, outcome, degraded, [CALL], COST, seconds=1.5)
    return counted


def test_an_answer_counts_for_its_road_and_what_it_took(kept: Kept) -> None:
    answered(kept)
    assert kept.of("trivium_answers_total", route="expert", outcome="ok", degraded="false") == 1
    assert kept.of("trivium_answer_seconds", route="expert") == 1.5
    assert kept.of("trivium_cost_usd_total", route="expert") == 0.25
    assert kept.of("trivium_baseline_usd_total", route="expert") == 0.5
    assert kept.of("trivium_tokens_total", model="small", kind="prompt") == 10
    assert kept.of("trivium_decisions_total", route="expert", stage="1") == 1
    assert kept.of("trivium_router_confidence") == 0.8


def test_what_has_no_end_is_paid_for_and_compared_with_nothing(kept: Kept) -> None:
    answered(kept, "failed")
    assert kept.of("trivium_cost_usd_total", route="expert") == 0.25
    assert kept.of("trivium_baseline_usd_total", route="expert") is None
    assert kept.of("trivium_answer_seconds", route="expert") is None


@pytest.mark.parametrize("stage", ["pinned", "fallback"])
def test_the_router_is_measured_by_what_it_decided_alone(kept: Kept, stage: str) -> None:
    answered(kept, stage=stage)
    assert kept.of("trivium_decisions_total", route="expert", stage=stage) == 1
    assert kept.of("trivium_router_latency_ms") is None
    assert kept.of("trivium_router_confidence") is None


def test_each_reason_counts_once_for_an_answer(kept: Kept) -> None:
    answered(kept, "ok", "frontier-resting", "frontier-resting", "ledger-unavailable")
    assert kept.of("trivium_degraded_total", reason="frontier-resting") == 1
    assert kept.of("trivium_degraded_total", reason="ledger-unavailable") == 1
    assert kept.of("trivium_answers_total", route="expert", outcome="ok", degraded="true") == 1


def all_errors(base: type[errors.TriviumError] = errors.TriviumError) -> Iterator[Any]:
    """Those of the tree: what a command line adds for itself is on no road."""
    yield base
    for each in base.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from all_errors(each)


def test_reasons_are_a_part_and_a_code_whatever_the_message() -> None:
    parts = ("router", *Route)
    found = {reason(part, kind("what a caller wrote")) for part in parts for kind in all_errors()}
    found |= {NO_EVIDENCE, UNWRITTEN}
    codes = {kind.code for kind in all_errors()}
    assert len(found) <= len(parts) * len(codes) + 2
    assert all("caller" not in each for each in found)
    assert {each.partition("-")[0] for each in found} == {*map(str, parts), "ledger"}


@pytest.mark.parametrize(
    ("error", "code", "fault"),
    [
        (errors.DeadlineExceeded("slow"), "deadline_exceeded", "house"),
        (errors.Overloaded("full"), "overloaded", "house"),
        (errors.BudgetExceeded("spent"), "budget_exceeded", "caller"),
        (errors.ContextLengthExceeded("long"), "context_length_exceeded", "caller"),
        (KeyError("unforeseen"), "internal_error", "house"),
    ],
)
def test_a_failure_says_whose_fault_it_was(
    kept: Kept, error: Exception, code: str, fault: str
) -> None:
    GatewayMetrics().failed(error)
    assert kept.of("trivium_failures_total", code=code, fault=fault) == 1


def test_judgements_and_the_pace_of_models_are_counted(kept: Kept) -> None:
    counted = GatewayMetrics()
    counted.judged("contract", good=False)
    counted.generated("large", first_s=0.5, rest_s=2.0, tokens=5)
    counted.generated("one word", first_s=0.5, rest_s=0.0, tokens=1)
    assert kept.of("trivium_judged_total", judge="contract", verdict="bad") == 1
    assert kept.of("trivium_first_token_seconds", model="one word") == 0.5
    assert kept.of("trivium_token_seconds", model="large") == 0.5
    assert kept.of("trivium_token_seconds", model="one word") is None


def test_limits_and_canaries_are_told(kept: Kept) -> None:
    told = StandingMetrics()
    told.limited("tenant:acme", "day", "usd", most=5.0, used=1.5)
    record = {"adapter": "a", "version": 2, "time": 1.8e9, "scores": {"exact": 0.5}, "alerts": [""]}
    told.canary(record)
    limit = {"limit": "tenant:acme", "per": "day", "unit": "usd"}
    assert kept.of("trivium_limit_most", **limit) == 5.0
    assert kept.of("trivium_limit_used", **limit) == 1.5
    assert kept.of("trivium_canary_score", adapter="a", version="2", score="exact") == 0.5
    assert kept.of("trivium_canary_alerts", adapter="a", version="2") == 1
    assert kept.of("trivium_canary_timestamp_seconds", adapter="a", version="2") == 1.8e9


def test_when_the_index_was_written_is_told_again_and_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray forgets what is not."""
    monkeypatch.setattr(metrics, "_REPEAT_S", 0.01)
    index = IndexMetrics()
    assert kept.of("trivium_index_written_timestamp_seconds") is None
    index.ingested([90.0], 100.0, chunks=3, embedded=3)
    for _ in range(2):
        until(lambda: kept.of("trivium_index_written_timestamp_seconds") == 100.0)
        kept.values.clear()
    for changed in (150.0, 120.0):  # by others; the registry may say so late
        index.changed(changed)
    until(lambda: kept.of("trivium_index_written_timestamp_seconds") == 150.0)


def test_a_circuit_is_told_as_it_is_now(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_REPEAT_S", 0.01)
    state = {"large": True}
    metrics.circuits(lambda: [("openai", name, resting) for name, resting in state.items()])
    labels = {"provider": "openai", "model": "large"}
    until(lambda: kept.of("trivium_circuit_open", **labels) == 1)
    state["large"] = False
    until(lambda: kept.of("trivium_circuit_open", **labels) == 0)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
