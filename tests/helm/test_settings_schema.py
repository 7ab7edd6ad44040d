"""Helm and editors know the settings: an unknown key is refused with those that are allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from serve_app.settings import Settings
from tests.helm.chart import CHART, PROFILES, ROOT, Json, Refused, command, of_profile
from tools import chart, chart_settings
from tools.chart_binaries import helm, helm_3
from tools.chart_settings import INSTEAD, engine_arguments

SCHEMA: Json = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def refusal(program: Path, verb: str, values: Path) -> str:
    """What Helm says to values of the chart."""
    release = ["trivium"] if verb == "template" else []
    with pytest.raises(Refused) as refused:
        command(program, verb, *release, str(CHART), "-f", str(values))
    return str(refused.value)


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, list[str]]]:
    """Every section of the settings, with its keys."""
    yield path, list(model.model_fields)
    for name, field in model.model_fields.items():
        kind = field.annotation
        place = f"{path}.{name}".lstrip(".")
        if isinstance(kind, type) and issubclass(kind, BaseModel) and place not in INSTEAD:
            yield from sections(kind, place)


def nested(path: str, value: Any) -> Json:
    """`value` at a dotted path."""
    for key in reversed(path.split(".") if path else []):
        value = {key: value}
    found: Json = value
    return found


def merged(one: Json, other: Json) -> Json:
    both = {**one}
    for key, value in other.items():
        inner = one.get(key)
        both[key] = merged(inner, value) if isinstance(inner, dict) else value
    return both


@pytest.mark.parametrize("version", [4, 3])
def test_every_mistyped_key_is_refused_with_its_neighbours(version: int, tmp_path: Path) -> None:
    typed: Json = {}
    expected = []
    for path, keys in sections(Settings):
        typed = merged(typed, nested(path, {f"{key}x": 1 for key in keys}))
        expected += [(f"{key}x", sorted(keys)) for key in keys]
    typed = merged(typed, {"expert": {"engine": {"max_model_length": 4096}}})
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"settings": typed}), encoding="utf-8")
    said = refusal(helm() if version == 4 else helm_3(), "lint", values)
    for key, neighbours in expected:
        assert re.search(rf"property ?[nN]ame (of )?.{key}. ?|dditional propert.*{key}", said, re.I)
        assert re.search(", ".join(rf".{each}." for each in neighbours), said), key
    assert "max_model_length" in said
    assert len(expected) > 80


@pytest.mark.parametrize("version", [4, 3])
def test_what_the_chart_sets_itself_is_refused_with_the_value_that_is_meant(
    version: int, tmp_path: Path
) -> None:
    given: Json = {}
    for path in INSTEAD:
        if not path.startswith("frontier.fallbacks"):
            given = merged(given, nested(path, {"min_replicas": 2} if "scaling" in path else "x"))
    given["frontier"]["fallbacks"] = [{"provider": "openai", "api_key": "hidden"}]
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"settings": given}), encoding="utf-8")
    said = refusal(helm() if version == 4 else helm_3(), "template", values)
    for instead in INSTEAD.values():
        assert f"not here: {instead}" in said
    assert "hidden" not in said


def test_items_of_lists_are_checked_too(tmp_path: Path) -> None:
    given = {
        "settings": {
            "ledger": {"limits": [{"off": "house", "of": "house", "per": "day", "usd": "5"}]},
            "gateway": {"api_keys": [{"name": "a", "sha": "0"}]},
        }
    }
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(given), encoding="utf-8")
    said = refusal(helm(), "template", values)
    assert "'/settings/ledger/limits/0': additional properties 'off' not allowed" in said
    assert "'/settings/gateway/api_keys/0': missing property 'sha256'" in said


def test_whatever_the_models_take_the_schema_takes() -> None:
    settings = SCHEMA["properties"]["settings"]
    plain = json.loads(json.dumps(Settings().to_args()))
    everything = Settings().model_dump(mode="json")
    for path in INSTEAD:
        *above, key = path.split(".")
        node: Any = everything
        for each in above:
            node = node[each]
        if isinstance(node, dict):
            node.pop(key, None)
    jsonschema.validate(plain, settings)
    jsonschema.validate(everything, settings)
    assert set(engine_arguments()) >= {"max_model_len", "tensor_parallel_size", "quantization"}


@pytest.mark.parametrize("profile", PROFILES)
def test_editors_take_the_profiles(profile: str) -> None:
    # As an editor does: without the defaults below, of which an overlay takes some out with null.
    values = yaml.safe_load(Path(of_profile(profile)[1]).read_text(encoding="utf-8"))
    errors = [
        error
        for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(values)
        if error.validator != "required"
    ]
    assert errors == []


def test_setting_that_is_added_makes_the_schema_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    class More(Settings):
        one_more: int = 1

    name = "helm/trivium/values.schema.json"
    written = (ROOT / name).read_text(encoding="utf-8")
    assert chart.documents()[name] == written
    monkeypatch.setitem(chart_settings.MODELS, "Settings", More)
    assert chart.documents()[name] != written
