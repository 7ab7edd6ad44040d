"""`python -m tools.dashboards` writes the dashboards into the chart; a test says when to."""

from __future__ import annotations

from pathlib import Path

from tools.dashboards import cost, models, quality, serving
from tools.dashboards.grafana import written

FOLDER = Path(__file__).parents[2] / "helm" / "trivium" / "files" / "dashboards"
DASHBOARDS = (serving.DASHBOARD, models.DASHBOARD, cost.DASHBOARD, quality.DASHBOARD)

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(written(dashboard), encoding="utf-8")
