"""The schema of the chart's `settings` and `scaling`, made of the models that read them.

An unknown key is refused by the list of those that are allowed beside it, and a key that the chart
sets itself by the value that is meant instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from serve_app.settings import Scaling, Settings

Json = dict[str, Any]

# What the chart derives of other values, or takes from a Secret: not for `settings`.
INSTEAD = {
    "state_dir": "it is the volume of `state`",
    "gateway.host": "pods listen on every address",
    "gateway.port": "pods listen on 8000",
    "gateway.first_key": "put it into secrets.env.TRIVIUM_GATEWAY__FIRST_KEY",
    "gateway.scaling": "set scaling.gateway",
    "router.heads": "set heads.source",
    "router.heads_sha256": "set heads.sha256",
    "router.policy": "set policy",
    "router.outcomes": "set outcomes",
    "router.scaling": "set scaling.router",
    "expert.scaling": "set scaling.expert",
    "expert.lora.cache": "it is in the volume of `state`",
    "retrieval.scaling": "set scaling.retrieval",
    "retrieval.milvus_uri": "set milvus.uri or milvus.standalone.enabled",
    "retrieval.milvus_token": "put it into secrets.env.TRIVIUM_RETRIEVAL__MILVUS_TOKEN",
    "retrieval.registry": "it is in ledger.database",
    "retrieval.registry_password": "it is that of the ledger",
    "frontier.scaling": "set scaling.frontier",
    "frontier.api_key": "put it into secrets.env, e.g. as OPENAI_API_KEY",
    "frontier.fallbacks.api_key": "put it into secrets.env, e.g. as OPENAI_API_KEY",
    "ledger.database": "set ledger.database",
    "ledger.password": "put it into secrets.env.TRIVIUM_LEDGER__PASSWORD",
    "ledger.prices": "set prices",
    "ledger.machines": "set machinePrices.enabled",
    "telemetry.otlp_traces_endpoint": "set tracing.endpoint or tracing.collector.enabled",
}
MODELS: dict[str, type[BaseModel]] = {"Settings": Settings, "Scaling": Scaling}


def of(name: str) -> Json:
    """JSON Schema (draft 7, without references) of one of `MODELS`."""
    whole = MODELS[name].model_json_schema()
    made = _plain(whole, whole.pop("$defs", {}), "")
    if name == "Settings":
        # So many that no message should list them, as those of sections do.
        names: Json = {each: {} for each in sorted(engine_arguments())}
        expert = made["properties"]["expert"]["properties"]
        expert["engine"] |= {"properties": names, "additionalProperties": False}
        # An overlay takes a variable of the defaults out with null.
        expert["environment"]["additionalProperties"] = {"type": ["string", "null"]}
    return made


def _plain(node: Json, definitions: Json, path: str) -> Json:
    """The same without references, titles, and what Helm's regular expressions do not know."""
    if reference := node.get("$ref"):
        named = definitions[reference.rpartition("/")[2]]
        return _plain(
            {**named, **{k: v for k, v in node.items() if k != "$ref"}}, definitions, path
        )
    made = {key: each for key, each in node.items() if key not in ("title", "properties")}
    if not isinstance(made.get("default"), bool | int | float | str):
        made.pop("default", None)
    if "(?" in made.get("pattern", ""):
        del made["pattern"]
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(made.get(key), dict):
            made[key] = _plain(made[key], definitions, path)
    if "anyOf" in made:
        made["anyOf"] = [_plain(each, definitions, path) for each in made["anyOf"]]
    if "properties" in node:
        made |= _section(node, definitions, path)
    return made


def _section(node: Json, definitions: Json, path: str) -> Json:
    """A model: each key with its explanation, and their names."""
    first, _, rest = node.get("description", "").partition("\n\nAttributes:\n")
    explained = dict(_attributes(rest))
    properties = {}
    for key, each in node["properties"].items():
        place = f"{path}.{key}".lstrip(".")
        if instead := INSTEAD.get(place):
            # Helm and editors say: must be 'not here: …'.
            properties[key] = {"const": f"not here: {instead}"}
            continue
        properties[key] = _plain(each, definitions, place)
        if text := explained.get(key):
            properties[key]["description"] = text
    return {
        "description": re.sub(r"\s+", " ", first),
        "properties": properties,
        # Beside `additionalProperties`, whose message names the place: this one's lists the keys.
        "propertyNames": {"enum": sorted(properties)},
    }


def _attributes(text: str) -> Iterator[tuple[str, str]]:
    """`name, name: text` of a docstring's attributes, with the lines that go on."""
    for part in re.split(r"\n?^    (?=\S)", text, flags=re.MULTILINE):
        names, _, explanation = part.partition(": ")
        for name in names.split(", "):
            yield name, re.sub(r"\s+", " ", explanation)


def engine_arguments() -> list[str]:
    """Names of vLLM's `AsyncEngineArgs`, read from its source: importing it takes seconds."""
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0]) / "engine" / "arg_utils.py"
    return [
        field.target.id
        for each in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(each, ast.ClassDef) and each.name in ("EngineArgs", "AsyncEngineArgs")
        for field in each.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    ]
