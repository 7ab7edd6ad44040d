from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.router.encoder import Encoder
from serve_app.router.heads import SHIPPED, Heads
from serve_app.router.rows import Row, read_rows
from serve_app.router.semantic import SemanticRouter
from serve_app.router.training import train
from serve_app.router.turns import Turns
from tests.conftest import ROOT

TWO = ["default"] * 2
BILLS = [
    "send the invoice to Acme", "bill the customer for two tents", "where is invoice 4711",
    "make out a bill over 300 euros", "the invoice has the wrong VAT", "credit note for order 12",
    "invoice address changed", "remind them of the unpaid invoice", "split the invoice in two",
    "print last month's invoices", "cancel the invoice", "invoice for the repair please",
]  # fmt: skip


@pytest.fixture(scope="module")
def roads() -> list[Row]:
    """A few rows of each road: enough to train on in a second."""
    rows = [
        row for row in read_rows(ROOT / "configs/demo/routes.jsonl") if row.intent in set(Route)
    ]
    chosen = [row for road in Route for row in [r for r in rows if r.intent == road.value][:80]]
    return [replace(row, volatile=None) for row in chosen]


def test_saved_heads_say_the_same(tmp_path: Path, router: SemanticRouter) -> None:
    path = tmp_path / "heads.safetensors"
    router.heads.save(path)
    again = replace(router, heads=Heads.load(path))
    asked = [Turns("What was our revenue today?"), Turns("and last week?", "stock in Oslo?")]
    for old, new in zip(router.signals(asked, TWO), again.signals(asked, TWO), strict=True):
        assert new.fit == pytest.approx(old.fit, abs=1e-6)
        assert new.volatility == pytest.approx(old.volatility, abs=1e-6)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "nan", "of an earlier version"])
def test_damaged_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "heads.safetensors"
    match damage:
        case "cut":
            path.write_bytes(SHIPPED.read_bytes()[:5000])
        case "text":
            path.write_text("not heads", encoding="utf-8")
        case "empty":
            path.touch()
        case "nan":
            heads = Heads.load(SHIPPED)
            bad = replace(heads.volatility, bias=np.array([np.nan], dtype=np.float32))
            replace(heads, volatility=bad).save(path)
        case "of an earlier version":
            path.write_bytes(SHIPPED.read_bytes().replace(b"router-heads/2", b"router-heads/1"))
    with pytest.raises(SettingsError) as caught:
        Heads.load(path)
    assert str(path) in caught.value.message
    assert "trivium train router" in caught.value.message


def test_intent_declared_by_utterances_gets_its_fit(
    encoder: Encoder, router: SemanticRouter, roads: list[Row]
) -> None:
    bills = [Row(Turns(text), "bills", intent="bills") for text in BILLS]
    heads = train(
        encoder, [*roads, *bills], router.heads, roads={"bills": Route.KNOWLEDGE}, card={}
    )
    assert heads.roads["bills"] is Route.KNOWLEDGE
    taught = replace(router, heads=heads)
    invoice, other = taught.signals(
        [Turns("invoice 99 is missing"), Turns("thank you so much")], TWO
    )
    assert invoice.fit["bills"] == max(invoice.fit.values())
    assert other.fit["bills"] < 0.2
    # No row had these labels: the heads are the shipped ones.
    assert heads.volatility is router.heads.volatility
    assert heads.complexity is router.heads.complexity


def test_intent_with_two_examples_is_refused_by_name(
    encoder: Encoder, router: SemanticRouter, roads: list[Row]
) -> None:
    few = [Row(Turns(text), "bills", intent="bills") for text in BILLS[:2]]
    with pytest.raises(SettingsError, match="at least 10 examples: bills has 2"):
        train(encoder, [*roads, *few], router.heads, roads={}, card={})


def test_label_with_one_value_is_refused(encoder: Encoder, router: SemanticRouter) -> None:
    rows = [Row(Turns(text), "file", volatile=1.0) for text in BILLS]
    with pytest.raises(SettingsError, match="volatile has one value"):
        train(encoder, rows, router.heads, roads={}, card={})


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([Row(Turns(text), "file") for text in BILLS], "no row has a label to learn from"),
        (
            [Row(Turns(text), "file", volatile=float(i < 2)) for i, text in enumerate(BILLS)],
            "2 with the label True, at least 5",
        ),
    ],
)
def test_rows_too_poor_to_learn_from_are_refused(
    encoder: Encoder, router: SemanticRouter, rows: list[Row], reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason):
        train(encoder, rows, router.heads, roads={}, card={})


def test_head_without_rows_and_without_base_is_named(encoder: Encoder, roads: list[Row]) -> None:
    with pytest.raises(SettingsError, match="no row has a label for volatility"):
        train(encoder, roads, None, roads={}, card={})
