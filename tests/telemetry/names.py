"""Which metrics dashboards, rules and the documentation name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "helm" / "trivium" / "files" / "dashboards"
RULES = ROOT / "helm" / "trivium" / "files" / "rules.yaml"
DOCS = ROOT / "docs" / "metrics.md"


def panels(path: Path) -> list[dict[str, Any]]:
    """Of a dashboard's file, headings left out."""
    found = json.loads(path.read_text(encoding="utf-8"))["panels"]
    return [each for each in found if each["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL of the dashboards, with where it stands; Grafana's variables replaced."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in panels(path):
            for target in panel["targets"]:
                query = target["expr"].replace("$namespace", ".*")
                yield f"{path.stem}: {panel['title']}", query.replace("$__rate_interval", "5m")


def rules() -> list[dict[str, Any]]:
    """All rules, of all groups."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def documented() -> dict[str, str]:
    """Type by name, from the documentation's tables."""
    rows = re.findall(r"^\| `(ray_\w+)` \| (\w+) \|", DOCS.read_text(encoding="utf-8"), re.M)
    return dict(rows)


def named(expression: str) -> set[str]:
    """Metrics of an expression, without the suffix of a histogram's buckets."""
    # A choice of names is written out: `ray_(a|b)_total`.
    spelt = re.sub(r"(\w+)\((\w+)\|(\w+)\)(\w+)", r"\1\2\4 \1\3\4", expression)
    return {name.removesuffix("_bucket") for name in re.findall(r"\bray_\w+", spelt)}
