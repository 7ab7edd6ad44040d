"""The dashboards in the chart: made by the generator, whole, and in PromQL that parses."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.telemetry import names
from tests.telemetry.prometheus import promtool
from tools.dashboards.__main__ import DASHBOARDS, FOLDER
from tools.dashboards.grafana import Dashboard, dashboard_json, scoped, written

EACH = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)


@EACH
def test_the_file_is_what_the_generator_makes(dashboard: Dashboard) -> None:
    path = FOLDER / f"{dashboard.uid}.json"
    made = written(dashboard)
    assert path.read_text(encoding="utf-8") == made, "run: python -m tools.dashboards"


def test_there_is_no_other_file() -> None:
    found = {path.stem for path in FOLDER.glob("*.json")}
    assert found == {dashboard.uid for dashboard in DASHBOARDS}


@EACH
def test_panels_have_ids_of_their_own_units_and_the_chosen_data_source(
    dashboard: Dashboard,
) -> None:
    made = dashboard_json(dashboard)
    numbers = [panel["id"] for panel in made["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {each["name"]: each["type"] for each in made["templating"]["list"]}
    assert variables == {"datasource": "datasource", "namespace": "query"}
    for panel in names.panels(FOLDER / f"{dashboard.uid}.json"):
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"


@EACH
def test_panels_do_not_overlap(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard_json(dashboard)["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_every_query_parses(tmp_path: Path) -> None:
    recorded = [
        {"record": f"parsed:{number}", "expr": query, "labels": {"panel": where}}
        for number, (where, query) in enumerate(names.queries())
    ]
    assert len(recorded) > 50
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in promtool("check", "rules", file)


def test_every_selector_is_within_the_chosen_namespaces() -> None:
    for where, query in names.queries():
        assert len(names.named(query)) > 0, where
        assert not re.findall(r"\bray_\w+(?!\w)(?!\{namespace=~)", query), where
    assert scoped('a(ray_x) / ray_y_total{b="c"}[5m]') == (
        'a(ray_x{namespace=~"$namespace"}) / ray_y_total{namespace=~"$namespace", b="c"}[5m]'
    )


def test_no_query_reads_what_ray_only_estimates() -> None:
    for where, query in names.queries():
        assert not re.findall(r"ray_\w+_sum\b", query), where


def test_rays_serve_page_finds_its_panels_here() -> None:
    """Its front end fixes their numbers; 2, 3 and 5 are of another dashboard, of one replica."""
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    pages = Path(spec.origin).parent / "dashboard" / "client" / "build" / "static" / "js"
    text = "".join(path.read_text(encoding="utf-8") for path in pages.glob("main.*.js"))
    wanted = {int(n) for n in re.findall(r'pathParams:"panelId=(\d+)"', text)} - {2, 3, 5}
    there = {panel["id"] for panel in names.panels(FOLDER / "trivium-serving.json")}
    assert wanted
    assert wanted <= there
