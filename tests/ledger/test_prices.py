from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain import Message, ModelCall, Usage
from serve_app.errors import SettingsError
from serve_app.ledger.meter import CostMeter, Exchange
from serve_app.ledger.prices import PriceTable, TokenPrice
from tests.conftest import ROOT

METERED = """
metered:
  big:
    input: 2.0
    cached_input: 0.5
    output: 8.0
    source: list
    as_of: 2026-01-01
  plain:
    input: 3.0
    output: 6.0
    source: list
    as_of: 2026-01-01
"""
COMPUTE = """
compute:
  own:
    usd_per_hour: 3.6
    prompt_tokens_per_second: 1000
    completion_tokens_per_second: 100
    utilisation: 0.5
    source: measured
    as_of: 2026-01-01
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(METERED + COMPUTE, "utf-8")
    return path


@pytest.fixture
def table(file: Path) -> PriceTable:
    return PriceTable.load(file)


def test_tokens_are_priced_per_million(table: PriceTable) -> None:
    assert table.of("big", Usage(1_000_000, 500_000)) == pytest.approx(2.0 + 4.0)


def test_cached_tokens_have_their_own_price(table: PriceTable) -> None:
    assert table.of("big", Usage(1_000_000, 0, 400_000)) == pytest.approx(0.6 * 2.0 + 0.4 * 0.5)


def test_cached_tokens_without_a_price_cost_as_fresh_ones(table: PriceTable) -> None:
    assert table.of("plain", Usage(100, 5, 60)) == table.of("plain", Usage(100, 5))


def test_own_machine_costs_its_time(table: PriceTable) -> None:
    # $0.001 a second, half of it idle: $0.002 for each busy second.
    assert table.of("own", Usage(1000, 0)) == pytest.approx(0.002)
    assert table.of("own", Usage(0, 100)) == pytest.approx(0.002)


def test_unknown_model_is_refused_and_known_ones_listed(table: PriceTable) -> None:
    with pytest.raises(SettingsError, match=r"'mystery'.*big, own, plain"):
        table.require("mystery")


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("input: 2.0", "input: -2.0", "metered.big.input"),
        ("input: 2.0", "input: .inf", "metered.big.input"),
        ("input: 2.0", "input: cheap", "metered.big.input"),
        ("    output: 8.0\n", "", "metered.big.output"),
        ("output: 6.0", "outptu: 6.0", "metered.plain.output"),
        ("as_of: 2026-01-01\ncompute", "as_of: soon\ncompute", "metered.plain.as_of"),
        ("utilisation: 0.5", "utilisation: 0", "compute.own.utilisation"),
        ("utilisation: 0.5", "utilisation: 1.5", "compute.own.utilisation"),
        ("second: 1000", "second: 0", "compute.own.prompt_tokens_per_second"),
        ("metered:", "meterd:", "metered"),
    ],
)
def test_bad_row_is_named(file: Path, old: str, new: str, place: str) -> None:
    text = (METERED.rstrip() + COMPUTE).replace(old, new, 1)
    file.write_text(text, "utf-8")
    with pytest.raises(SettingsError) as caught:
        PriceTable.load(file)
    assert caught.value.message.startswith(f"{file}: {place}")


@pytest.mark.parametrize("content", [b"", b"- a", b"metered: [", b"\xff\xfe\x00", b"metered: \x00"])
def test_file_that_is_no_price_table_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        PriceTable.load(file)
    assert str(file) in caught.value.message


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        PriceTable.load(tmp_path / "nowhere.yaml")


def test_the_table_that_comes_along_prices_the_demo() -> None:
    shipped = PriceTable.load(ROOT / "configs" / "prices.yaml")
    demo, baseline = shipped.require("smollm2-135m-instruct"), shipped.require("gpt-4.1")
    assert demo.input < baseline.input
    assert demo.output < baseline.output


def test_a_price_that_was_read_long_ago_is_named(table: PriceTable) -> None:
    as_of = table.require("big").as_of
    assert table.stale(["big", "own", "mystery"], as_of) == []
    later = table.stale(["big", "mystery"], as_of + timedelta(days=121))
    assert later == [f"big ({as_of})"]


def test_cost_is_split_by_purpose_and_has_baselines(table: PriceTable) -> None:
    meter = CostMeter(table, "big", context_tokens=1000)
    calls = [
        ModelCall("own", "answer", Usage(1000, 100)),
        ModelCall("big", "frontier", Usage(500, 100)),
        ModelCall("own", "answer", Usage(0, 100)),
    ]
    cost = meter.cost(calls, Exchange(500, 100))
    assert cost.by_purpose == pytest.approx({"answer": 0.006, "frontier": 0.0018})
    assert cost.total == pytest.approx(0.0078)
    assert cost.baseline == pytest.approx((1500 * 2 + 100 * 8) / 1e6)
    assert cost.all_frontier == pytest.approx((500 * 2 + 100 * 8) / 1e6)


def test_the_baseline_has_the_evidence_of_its_own_question(table: PriceTable) -> None:
    """None was needed: what is usual. Some was retrieved: that."""
    meter = CostMeter(table, "big", context_tokens=1000)
    asked, said = [Message("user", "x" * 400)], "y" * 40
    exchange = Exchange.of(asked, said, evidence_tokens=300)
    assert exchange == Exchange(100, 10, 300)
    assert meter.cost([], exchange).baseline == pytest.approx((400 * 2 + 10 * 8) / 1e6)


def test_meter_refuses_a_baseline_without_price(table: PriceTable) -> None:
    with pytest.raises(SettingsError, match="mystery"):
        CostMeter(table, "mystery", 1000)


TOKENS = st.integers(0, 10_000_000)
DOLLARS = st.floats(0, 1000)
USAGES = st.tuples(TOKENS, TOKENS, st.floats(0, 1)).map(
    lambda t: Usage(t[0], t[1], int(t[0] * t[2]))
)


@given(st.lists(USAGES, max_size=5), DOLLARS, DOLLARS, st.none() | DOLLARS)
def test_cost_is_additive_and_never_negative(
    usages: list[Usage], dollars_in: float, dollars_out: float, cached: float | None
) -> None:
    price = TokenPrice.model_validate(
        {
            "input": dollars_in,
            "output": dollars_out,
            "cached_input": cached,
            "source": "test",
            "as_of": "2026-01-01",
        }
    )
    table = PriceTable({"m": price}, {})
    apart = sum(table.of("m", usage) for usage in usages)
    assert table.of("m", sum(usages, Usage())) == pytest.approx(apart, rel=1e-9, abs=1e-12)
    assert apart >= 0


@given(USAGES, USAGES)
def test_usage_adds_up(one: Usage, other: Usage) -> None:
    assert (one + other).total_tokens == one.total_tokens + other.total_tokens
    assert (one + other).cached_tokens <= (one + other).prompt_tokens


def test_model_that_only_reads_costs_what_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("metered: {}" + COMPUTE.replace("    completion_tokens_per_second: 100\n", ""))
    price = PriceTable.load(path).require("own")
    # 3.6 dollars an hour, half used: .002 dollars buy 1000 tokens.
    assert price.input == pytest.approx(2.0)
    assert price.output == 0.0
