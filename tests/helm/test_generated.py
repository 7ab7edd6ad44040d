"""What is made of the chart is up to date, and kustomize makes of it what Helm does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helm.chart import CHART, PROFILES, ROOT, Json
from tools import chart, chart_kustomize
from tools.chart_binaries import kubectl
from tools.chart_kustomize import manifests, profile_arguments


def test_everything_generated_is_up_to_date() -> None:
    for name, text in chart.documents().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name}: run `make chart`"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base and overlays, as a release attaches them."""
    folder = tmp_path_factory.mktemp("kustomize")
    chart_kustomize.write(folder)
    return folder


@pytest.mark.parametrize("profile", [None, *PROFILES])
def test_kustomize_makes_what_helm_does(profile: str | None, rendered: Path) -> None:
    folder = rendered / (f"overlays/{profile}" if profile else "base")
    done = subprocess.run(
        [str(kubectl()), "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: list[Json] = list(yaml.safe_load_all(done.stdout))
    found.sort(key=lambda each: (each["kind"], each["metadata"]["name"]))
    assert found == manifests(*(profile_arguments(profile) if profile else []))


def test_values_stay_readable() -> None:
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 440
    root = chart.read(text)
    unexplained = [
        each.path
        for each in leaves(root)
        if not each.text and not each.path.startswith(("scaling.", "jobDefaults.gpu"))
    ]
    assert unexplained == []


def leaves(value: chart.Value) -> list[chart.Value]:
    """Values that are not explained through their children."""
    if value.text or not value.children:
        return [value]
    return [each for child in value.children for each in leaves(child)]


def test_templates_stay_short() -> None:
    lengths = {
        path.name: len(path.read_text(encoding="utf-8").splitlines())
        for path in CHART.glob("templates/**/*.yaml")
    }
    assert len(lengths) > 10
    assert max(lengths.values()) < 90, lengths


def test_comments_bound_and_explain() -> None:
    root = chart.read(
        "# -- How many\n# @schema {minimum: 1}\nnumber: 2\n"
        "groups:\n  a:\n    # -- Its size\n    size: 1\n"
        "# -- More\n# @schema {each: groups.a}\nmore: {}\n"
    )
    made = chart.schema(root, root)
    assert made["properties"]["number"] == {
        "type": "integer",
        "description": "How many",
        "minimum": 1,
    }
    assert made["properties"]["more"]["additionalProperties"]["properties"]["size"]
    assert made["properties"]["groups"]["additionalProperties"] is False
    assert "| `number` | `2` | How many |" in chart.table(root)
