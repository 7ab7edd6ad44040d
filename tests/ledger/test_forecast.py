"""The arithmetic of `trivium cost forecast`, on assumptions whose answer is known."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve_app.ledger.forecast import STACKS, Assumptions, Forecast, crossovers
from serve_app.ledger.prices import ComputePrice, PriceTable, TokenPrice
from tests.cli.conftest import Run, run
from tests.conftest import ROOT

__all__ = ["run"]  # the fixture

SHIPPED = ROOT / "configs" / "forecast.yaml"
TOLD: dict[str, Any] = {"source": "test", "as_of": date(2026, 1, 1)}


def table() -> PriceTable:
    """$10 a million frontier tokens; a machine of $1 an hour for 1,000 tokens a second."""
    machine = ComputePrice(
        usd_per_hour=1.0,
        prompt_tokens_per_second=1000,
        completion_tokens_per_second=1000,
        utilisation=1,
        **TOLD,
    )
    embeds = ComputePrice(usd_per_hour=0, prompt_tokens_per_second=1, utilisation=1, **TOLD)
    frontier = TokenPrice(input=10, output=10, cached_input=1, **TOLD)
    return PriceTable({"large": frontier}, {"small": machine, "embeds": embeds})


def assumed(**workload: Any) -> Assumptions:
    """Nothing is paid once and nothing kept up: machines and tokens alone."""
    nothing = dict.fromkeys(STACKS, 0)
    right = {"static": 1, "volatile": 1, "reasoning": 1}
    work = {
        "static": 1,
        "volatile": 0,
        "reasoning": 0,
        "question_tokens": 100,
        "answer_tokens": 100,
        "evidence_tokens": 800,
        "knowledge_tokens": 10_000,
        "knowledge_changed": 0,
        **workload,
    }
    return Assumptions.model_validate(
        {
            "workload": work,
            "models": {"frontier": "large", "expert": "small", "embedding": "embeds"},
            "capex": {
                "months": 12,
                "engineering_usd_per_hour": 0,
                "engineering_hours": nothing,
                "training_gpu_hours": 0,
                "gpu_usd_per_hour": 0,
                "training_runs": 0,
            },
            "opex": {
                "retraining_runs": 0,
                "engineering_hours": nothing,
                "machines_min": 1,
                "peak_to_mean": 1,
            },
            "succeeds": dict.fromkeys(STACKS, right),
        }
    )


def test_a_machine_is_worth_it_once_its_month_is_saved_in_tokens() -> None:
    made = Forecast(assumed(), table())
    # A RAG-only answer is 1,000 tokens: a cent. A machine's month is 730 dollars.
    assert made.month("rag_only", 1000).total == pytest.approx(10)
    assert made.month("hybrid", 1000).total == pytest.approx(730)
    assert made.crossover("hybrid", "rag_only") == 73_001
    assert made.crossover("fine_tuned_only", "hybrid") is None


def test_machines_come_in_whole_ones_for_the_busiest_hour() -> None:
    made = Forecast(assumed(), table())
    # One second an answer, so 3,600 answers an hour are one machine's.
    full = 3600 * 730
    assert made.month("fine_tuned_only", full).machines == pytest.approx(730)
    assert made.month("fine_tuned_only", full + 1000).machines == pytest.approx(1460)


def test_a_whole_base_in_the_prompt_is_read_from_the_cache() -> None:
    made = Forecast(assumed(), table())
    assert made.month("long_context", 1).total == pytest.approx((200 * 10 + 10_000 * 1) / 1e6)


def test_what_a_stack_cannot_know_makes_its_successes_dear() -> None:
    half = assumed(static=0.5, volatile=0.5)
    blind = half.model_dump()
    blind["succeeds"]["fine_tuned_only"]["volatile"] = 0
    month = Forecast(Assumptions.model_validate(blind), table()).month("fine_tuned_only", 1000)
    assert month.success == 0.5
    assert month.per_success == pytest.approx(730 / 500)


@given(st.integers(1, 10**8), st.sampled_from(STACKS))
def test_more_answers_never_cost_less_and_each_part_is_counted(answers: int, stack: Any) -> None:
    made = Forecast(Assumptions.load(SHIPPED), PriceTable.load(ROOT / "configs" / "prices.yaml"))
    month, more = made.month(stack, answers), made.month(stack, answers * 2)
    assert more.total >= month.total > 0
    assert month.total == month.capex + month.upkeep + month.machines + month.tokens
    assert math.isfinite(month.per_success)


def test_the_shipped_assumptions_have_a_crossover() -> None:
    made = Forecast(Assumptions.load(SHIPPED), PriceTable.load(ROOT / "configs" / "prices.yaml"))
    fewest = crossovers(made)["rag_only"]
    assert fewest is not None
    assert made.month("hybrid", fewest).per_success < made.month("rag_only", fewest).per_success
    assert (
        made.month("hybrid", fewest - 1).per_success
        >= made.month("rag_only", fewest - 1).per_success
    )


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("workload", "static"), 0.9, "sum to 1"),
        (("workload", "answer_tokens"), -1, "workload.answer_tokens"),
        (("models", "expert"), "gpt-4.1", "priced by token"),
        (("models", "frontier"), "nobody", "nobody"),
        (("capex", "months"), 0, "capex.months"),
        (("succeeds", "hybrid"), None, "succeeds.hybrid"),
        (("more",), 1, "more"),
    ],
)
def test_assumptions_that_cannot_be_are_named(
    run: Run, tmp_path: Path, place: tuple[str, ...], value: Any, said: str
) -> None:
    given_ = yaml.safe_load(SHIPPED.read_text())
    inner = given_
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(given_))
    outcome = run("cost", "forecast", "-a", str(file))
    assert outcome.code == 2
    assert said in outcome.err


def test_the_command_draws_and_speaks_json(run: Run, tmp_path: Path) -> None:
    chart = tmp_path / "forecast.png"
    told = json.loads(run("cost", "forecast", "--volume", "5000", "--json").out)
    assert set(told["months"]["5000"]) == set(STACKS)
    assert run("cost", "forecast", "--chart", str(chart)).code == 0
    assert chart.read_bytes().startswith(b"\x89PNG")
