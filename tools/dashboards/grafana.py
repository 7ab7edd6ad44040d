"""Dashboards in Grafana's terms.

Queries are written without a namespace: every `ray_…` selector gets `namespace=~"$namespace"` when
it is written out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

_WIDTH, _HEIGHT, _GRID = 8, 8, 24
_FIRST_FREE_ID = 100
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

Kind = Literal["timeseries", "stat", "bargauge"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Attributes:
        queries: PromQL by legend; a legend may use labels, as `{{route}}`.
        unit: As Grafana names it.
        number: Of the panel, where others refer to it.
    """

    title: str
    unit: str
    text: str
    queries: Mapping[str, str]
    kind: Kind = "timeseries"
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Rows of panels, by their headings. The uid is the name of its file too."""

    uid: str
    title: str
    rows: Mapping[str, Sequence[Panel]]


def panel_json(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """A panel in Grafana's terms, at a place of the grid."""
    targets = [
        {
            "refId": chr(ord("A") + place),
            "datasource": _DATASOURCE,
            "expr": scoped(query),
            "legendFormat": legend,
            "editorMode": "code",
            "range": panel.kind == "timeseries",
            "instant": panel.kind != "timeseries",
        }
        for place, (legend, query) in enumerate(panel.queries.items())
    ]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"], "values": False}}
    if panel.kind == "timeseries":
        defaults["custom"] = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}
        options = {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.unit == "percentunit":
        defaults["max"] = 1
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


def scoped(query: str) -> str:
    """The query within the namespaces that are chosen."""
    own = 'namespace=~"$namespace"'
    inside = re.sub(r"(\bray_\w+)\{", rf"\1{{{own}, ", query)
    return re.sub(r"(\bray_\w+)(?![\w{])", rf"\1{{{own}}}", inside)


def _placed(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    free, y = _FIRST_FREE_ID, 0
    for heading, panels in dashboard.rows.items():
        place = {"x": 0, "y": y, "w": _GRID, "h": 1}
        yield {"id": free, "type": "row", "title": heading, "gridPos": place, "panels": []}
        free, y = free + 1, y + 1
        for count, panel in enumerate(panels):
            across, down = count % (_GRID // _WIDTH), count // (_GRID // _WIDTH)
            yield panel_json(panel, panel.number or free, across * _WIDTH, y + down * _HEIGHT)
            free += panel.number is None
        y += -(-len(panels) // (_GRID // _WIDTH)) * _HEIGHT


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard in Grafana's terms. Ray hands its data source over as `var-datasource`."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["trivium"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [
            {"type": "dashboards", "title": "Trivium", "tags": ["trivium"], "keepTime": True}
        ],
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "namespace",
                    "type": "query",
                    "datasource": _DATASOURCE,
                    "query": 'label_values(ray_serve_deployment_status{application="trivium"}, '
                    "namespace)",
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    # Also what has no namespace: a stack on a laptop.
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": list(_placed(dashboard)),
    }


def written(dashboard: Dashboard) -> str:
    """The text of its file."""
    return json.dumps(dashboard_json(dashboard), indent=1, ensure_ascii=False) + "\n"
