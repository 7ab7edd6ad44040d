"""Would the application start with this? Its own models read what the pods will be given."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from serve_app.cluster import needs
from serve_app.cluster.findings import Finding, Plan
from serve_app.errors import SettingsError
from serve_app.ledger.prices import PriceTable
from serve_app.plain_data import yaml_text
from serve_app.router.policy import parse_policy
from serve_app.settings import Settings, from_text

_SETTINGS = "settings.yaml"
_REMEDY = "correct it in your values"


def settings(plan: Plan) -> Iterator[Finding]:
    """Whether settings, policy and prices are what their models take."""
    files = config(plan)
    if _SETTINGS not in files:
        yield Finding("settings", "warning", f"there is no {_SETTINGS} among the config maps", "")
        return
    try:
        found = from_text(files[_SETTINGS], "settings", needs.variables(plan.objects))
        _policy(found, files)
        _prices(found, files)
    except SettingsError as error:
        for line in error.message.splitlines():
            yield Finding("settings", "failed", line, _REMEDY)
    else:
        yield Finding("settings", "ok", "every key is known, every model has a price")


def config(plan: Plan) -> dict[str, str]:
    """Files of the config maps, by name."""
    maps = [each for each in plan.objects if each["kind"] == "ConfigMap"]
    return {name: text for each in maps for name, text in (each.get("data") or {}).items()}


def _policy(found: Settings, files: Mapping[str, str]) -> None:
    if (policy := _content(found.router.policy, files)) is not None:
        parse_policy(policy, "router.policy")


def _prices(found: Settings, files: Mapping[str, str]) -> None:
    table = _content(found.ledger.prices, files)
    if table is None:
        return  # the image has a table of its own
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prices.yaml"
        path.write_text(yaml.safe_dump(table), encoding="utf-8")
        prices = PriceTable.load(path)
    for model in found.models_used:
        prices.require(model)


def _content(given: Any, files: Mapping[str, str]) -> Any:
    """What stands in the settings itself, or in a file of a config map; None for other files."""
    if not isinstance(given, Path):
        return given
    return yaml_text(files[given.name], given.name) if given.name in files else None
