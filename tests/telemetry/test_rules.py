"""The rules, as promtool evaluates them."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.telemetry import names
from tests.telemetry.prometheus import promtool

CASES = Path(__file__).with_name("rules_test.yaml")


def test_promtool_accepts_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", names.RULES)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", CASES)


def test_each_alert_is_tested_firing_and_silent() -> None:
    cases = [
        case
        for each in yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
        for case in each.get("alert_rule_test", ())
    ]
    alerts = {rule["alert"] for rule in names.rules() if "alert" in rule}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts


def test_each_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    for rule in names.rules():
        if "alert" not in rule:
            continue
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        said = rule["annotations"]
        assert said["summary"]
        assert said["description"]
        assert said["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
