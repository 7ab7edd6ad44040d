from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given

from serve_app.domain import Decision, Route
from serve_app.errors import SettingsError
from serve_app.pins import find
from serve_app.router.heads import SHIPPED, Heads, Signals
from serve_app.router.outcomes import load_outcomes
from serve_app.router.policy import DEFAULT, load_policy, parse_policy
from serve_app.router.value import Known, prices
from serve_app.settings import Settings

HEADS = Heads.load(SHIPPED)
KNOWN = Known(load_outcomes(None), prices(Settings()), HEADS.roads)
SHARE = st.floats(0, 1)


def data(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load(DEFAULT.read_text(encoding="utf-8")), **changes}


def signals(expert: float = 0.0, knowledge: float = 0.0, frontier: float = 0.0) -> Signals:
    fit = {"expert": expert, "knowledge": knowledge, "frontier": frontier}
    return Signals(fit, in_scope=1.0, volatility=0.1, complexity=0.5, coverage=1.0)


def decide(given: Signals, tenant: str = "default", text: str = "", **changes: Any) -> Decision:
    policy = parse_policy(data(**changes), "test")
    return policy.decide(given, KNOWN, tenant, find(policy.pins_of(tenant), [text]))


@pytest.mark.parametrize("road", list(Route))
def test_a_clear_fit_decides(road: Route) -> None:
    made = decide(signals(**{road.value: 1.0}))
    assert made.route is road
    assert made.scores[road] > 0.99
    assert made.confidence > 0.7


def test_worth_buys_the_strong_road_in_doubt() -> None:
    doubt = signals(expert=0.6, frontier=0.4)
    poor = decide(doubt, value_usd=0.001)
    assert poor.route is Route.EXPERT
    assert "frontier, 0.88, is not worth its price" in poor.reason
    assert decide(doubt, value_usd=1.0).route is Route.FRONTIER


def test_a_question_goes_where_it_can_be_known() -> None:
    asked = signals(knowledge=1.0)
    assert decide(asked).route is Route.KNOWLEDGE
    timeless = replace(asked, coverage=0.0)
    assert decide(timeless).route is not Route.KNOWLEDGE, "no base speaks of it"
    changing = decide(replace(timeless, volatility=0.95))
    assert changing.route is Route.KNOWLEDGE
    assert "nobody here is known to know it" in changing.reason
    live = decide(replace(timeless, volatility=0.95), live_frontier=True)
    assert live.route is Route.FRONTIER


def test_a_longer_conversation_costs_more() -> None:
    policy = parse_policy(data(), "test")
    short, long = (
        policy.decide(signals(frontier=1.0), KNOWN, "default", tokens=tokens).terms
        for tokens in (10, 100_000)
    )
    for road in Route:
        assert long[road].cost_usd > short[road].cost_usd
        assert long[road].success == short[road].success


def test_tenants_have_their_own_worth_and_pins() -> None:
    tenants = {
        "rich": {"value_usd": 1.0},
        "clinic": {"pins": [{"name": "nothing leaves", "never": ["frontier"]}]},
    }
    doubt = signals(expert=0.6, frontier=0.4)
    assert decide(doubt, "rich", tenants=tenants).route is Route.FRONTIER
    barred = decide(signals(frontier=1.0), "clinic", tenants=tenants)
    assert barred.route is not Route.FRONTIER
    assert barred.barred == (Route.FRONTIER,)
    assert "frontier is barred (nothing leaves)" in barred.reason
    assert "worth its price" not in barred.reason
    policy = parse_policy(data(tenants=tenants), "test")
    pinned = [bool(policy.pins_of(each)) for each in ("rich", "clinic", "nobody")]
    assert pinned == [False, True, False]
    assert decide(signals(frontier=1.0), "other", tenants=tenants).route is Route.FRONTIER


def test_pins_hold_for_matching_texts_and_intents() -> None:
    pins = [{"name": "secret", "never": ["frontier"], "matches": r"\bbluebird\b"}]
    assert (
        decide(signals(frontier=1.0), text="weigh Bluebird", pins=pins).route is not Route.FRONTIER
    )
    assert decide(signals(frontier=1.0), text="weigh blue birds", pins=pins).route is Route.FRONTIER
    legal_pin = {"name": "legal", "never": ["frontier"], "intents": ["legal"], "above": 0.3}
    known = replace(KNOWN, roads={**HEADS.roads, "legal": Route.FRONTIER})
    policy = parse_policy(data(pins=[legal_pin]), "test")
    legal = Signals({"frontier": 0.5, "legal": 0.5}, 1.0, 0.5, 0.5)
    assert policy.decide(legal, known, "default").route is not Route.FRONTIER
    other = Signals({"frontier": 0.9, "legal": 0.1}, 1.0, 0.5, 0.5)
    assert policy.decide(other, known, "default").route is Route.FRONTIER


def test_pin_on_an_unknown_intent_is_refused_by_name() -> None:
    """It would never hold, and nobody would notice."""
    pin = {"name": "legal stays", "never": ["frontier"], "intents": ["leagl"]}
    for changes in ({"pins": [pin]}, {"tenants": {"t": {"pins": [pin]}}}):
        with pytest.raises(SettingsError, match="'legal stays' names the intent leagl"):
            parse_policy(data(**changes), "test").require(HEADS)


@given(SHARE, SHARE, SHARE, SHARE, SHARE)
def test_every_decision_is_sound(
    expert: float, knowledge: float, in_scope: float, volatility: float, complexity: float
) -> None:
    fit = {"expert": expert, "knowledge": knowledge, "frontier": 1.0}
    made = decide(Signals(fit, in_scope, volatility, complexity))
    assert sum(made.scores.values()) == pytest.approx(1)
    assert sum(made.kinds.values()) == pytest.approx(1)
    assert all(0 < term.success < 1 for term in made.terms.values())
    assert made.confidence == made.terms[made.route].success
    assert made.route is max(made.terms, key=lambda road: made.terms[road].value_usd)
    assert made.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"roads": {}}, "roads: Extra inputs"),
        ({"value_usd": -1}, "greater than 0"),
        ({"colour": "red"}, "Extra inputs"),
        ({"pins": [{"name": "x", "never": ["expert", "knowledge", "frontier"]}]}, "no road at all"),
        ({"pins": [{"name": "x", "never": ["mars"]}]}, "'expert', 'knowledge'"),
        ({"pins": [{"name": "x", "never": ["expert"], "matches": "("}]}, "regular expression"),
        (
            {
                "pins": [{"name": "x", "never": ["expert", "knowledge"]}],
                "tenants": {"t": {"pins": [{"name": "y", "never": ["frontier"]}]}},
            },
            "no road to t",
        ),
        (
            {
                "pins": [{"name": "house", "never": ["frontier"], "matches": "bluebird"}],
                "tenants": {
                    "t": {"pins": [{"name": "house", "never": ["frontier"], "matches": "falcon"}]}
                },
            },
            "pins of t: house is there twice",
        ),
    ],
)
def test_bad_policy_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_policy(data(**changes), "mine.yaml")
    assert caught.value.message.startswith("mine.yaml: ")
    assert reason in caught.value.message


def test_policy_that_is_no_yaml_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_policy(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("roads: [", encoding="utf-8")
    with pytest.raises(SettingsError, match="not valid YAML"):
        load_policy(bad)
