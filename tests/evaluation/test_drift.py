"""Canary records: what changed, what fell, and what others can read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve_app.errors import Unavailable
from serve_app.evaluation import drift


def record(**other: Any) -> dict[str, Any]:
    return {
        "date": "2026-11-24T21:00:00+00:00",
        "time": 1.8e9,
        "adapter": "house-style",
        "version": 2,
        "scores": {"adherence": 0.9, "exact": 0.5},
        "alerts": ["adherence fell"],
        "changed": ["base"],
        **other,
    }


def test_a_history_grows_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new" / drift.FILE
    history = drift.History(str(path))
    assert history.records() == []
    history.add(record(version=1))
    history.add(record(version=2))
    assert [each["version"] for each in drift.History(str(path)).records()] == [1, 2]
    path.write_text("{half a rec")
    with pytest.raises(Unavailable, match="is damaged"):
        history.records()


def test_only_a_fall_beyond_the_tolerance_is_an_alert() -> None:
    own = drift.released({"after": {"canary_adherence": 1.0, "canary_exact": 0.8, "other": 1.0}})
    assert own == {"adherence": 1.0, "exact": 0.8}
    assert drift.alerts({"adherence": 0.96, "exact": 0.9}, own, 0.05) == []
    (alert,) = drift.alerts({"adherence": 0.94, "exact": 0.8}, own, 0.05)
    assert "adherence 0.940 is 0.060 below the release's 1.000" in alert


def test_what_is_not_as_before_is_named() -> None:
    now = {"base": "a", "engine": "2"}
    assert drift.changed({"base": "a", "engine": "1"}, now) == ["engine"]
    assert drift.changed(now, now) == []
    assert drift.changed(None, now) == ["base", "engine"]


def test_metrics_and_picture_show_the_record(tmp_path: Path) -> None:
    drift.write_metrics(tmp_path / "canary.prom", record())
    found = {
        (sample.name, sample.labels.get("score")): sample.value
        for family in text_string_to_metric_families((tmp_path / "canary.prom").read_text())
        for sample in family.samples
    }
    assert found["trivium_canary_score", "exact"] == 0.5
    assert found["trivium_canary_alerts", None] == 1
    drift.draw([record(changed=[]), record()], tmp_path / "canary.png", 0.05)
    assert (tmp_path / "canary.png").stat().st_size > 1000
