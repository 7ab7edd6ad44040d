"""Draw dashboards from a Prometheus, a PNG for each: what Grafana would ask, without Grafana.

`python -m tools.dashboards.pictures http://127.0.0.1:9090 --minutes 30 --out pictures`
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import matplotlib
from matplotlib import pyplot as plt

from tools.dashboards.__main__ import DASHBOARDS
from tools.dashboards.grafana import Dashboard, Panel, scoped

_POINTS = 120
_UNITS = {"currencyUSD": "$", "reqps": "per s", "percentunit": "share", "short": ""}


@dataclass(frozen=True, slots=True)
class Source:
    """A Prometheus and a stretch of time."""

    url: str
    end: float
    seconds: float

    def lines(self, query: str, legend: str) -> dict[str, list[tuple[float, float]]]:
        """Points of a query by their legends; minutes before the end, and values."""
        step = max(5.0, self.seconds / _POINTS)
        answer = httpx.get(
            f"{self.url}/api/v1/query_range",
            params={
                "query": asked(query),
                "start": self.end - self.seconds,
                "end": self.end,
                "step": step,
            },
            timeout=30,
        )
        answer.raise_for_status()
        return {
            _label(legend, each["metric"]): [
                ((float(at) - self.end) / 60, float(value)) for at, value in each["values"]
            ]
            for each in answer.json()["data"]["result"]
        }


def asked(query: str) -> str:
    """A query as Prometheus takes it: without Grafana's variables."""
    return scoped(query).replace("$namespace", ".*").replace("$__rate_interval", "1m")


def draw(dashboard: Dashboard, source: Source, path: Path) -> list[str]:
    """Draw all panels of a dashboard; returns the titles of those without a point."""
    panels = [panel for row in dashboard.rows.values() for panel in row]
    rows = -(-len(panels) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(18, 3.4 * rows), layout="constrained")
    figure.suptitle(dashboard.title)
    empty = []
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for panel, axis in zip(panels, axes.flat, strict=False):
        lines: dict[str, list[tuple[float, float]]] = {}
        for legend, query in panel.queries.items():
            lines |= source.lines(query, legend)
        if not lines:
            empty.append(panel.title)
        _draw(panel, lines, axis)
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return empty


def _draw(panel: Panel, lines: Mapping[str, Sequence[tuple[float, float]]], axis: Any) -> None:
    axis.set_title(panel.title, fontsize=10)
    axis.set_ylabel(_UNITS.get(panel.unit, panel.unit), fontsize=8)
    axis.tick_params(labelsize=7)
    if not lines:
        axis.text(0.5, 0.5, "no data", ha="center", transform=axis.transAxes, color="0.6")
        return
    if panel.kind == "timeseries":
        for label, points in sorted(lines.items()):
            axis.plot(*zip(*points, strict=True), label=label, marker=".", markersize=2)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=6)
        return
    now = {label: points[-1][1] for label, points in sorted(lines.items())}
    axis.barh(list(now), list(now.values()))
    axis.bar_label(axis.containers[0], fmt="%.3g", fontsize=8)


def _label(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus", help="its URL")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    told = parser.parse_args()
    matplotlib.use("Agg")
    told.out.mkdir(parents=True, exist_ok=True)
    source = Source(told.prometheus.rstrip("/"), time.time(), told.minutes * 60)
    for dashboard in DASHBOARDS:
        path = told.out / f"{dashboard.uid}.png"
        empty = draw(dashboard, source, path)
        print(path, f"(no data: {', '.join(empty)})" if empty else "")


if __name__ == "__main__":
    main()
