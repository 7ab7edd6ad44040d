"""docs/metrics.md, the code, the dashboards and the rules name the same metrics."""

from __future__ import annotations

import re

from serve_app.telemetry import metrics
from tests.telemetry import names


def test_dashboards_and_rules_name_only_what_is_documented() -> None:
    known = set(names.documented())
    for where, query in names.queries():
        assert names.named(query) <= known, where
    for rule in names.rules():
        assert names.named(rule["expr"]) <= known, rule


def test_our_own_metrics_are_documented_with_their_types() -> None:
    own = {n: kind for n, kind in names.documented().items() if n.startswith("ray_trivium_")}
    assert own == {f"ray_{name}": kind for name, kind in declared().items()}


def declared() -> dict[str, str]:
    """Type by name of what the module declares."""
    source = (names.ROOT / "serve_app" / "telemetry" / "metrics.py").read_text(encoding="utf-8")
    kinds = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "lasting": "gauge"}
    found = re.findall(r'\b(Counter|Gauge|Histogram|lasting)\(\s*"(trivium_\w+)"', source)
    assert len(found) > 15
    assert metrics.__file__.endswith("metrics.py")
    return {name: kinds[kind] for kind, name in found}


def test_every_alert_is_documented() -> None:
    alerts = {rule["alert"] for rule in names.rules() if "alert" in rule}
    rows = re.findall(r"^\| `(Trivium\w+)` \|", names.DOCS.read_text(encoding="utf-8"), re.M)
    assert set(rows) == alerts
