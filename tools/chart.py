"""Keep what is made of the chart true: values.schema.json, and its README's table.

`python tools/chart.py` rewrites them; `--check` only says whether they are up to date.

`# -- text` above a value explains it, `# @schema {…}` bounds it with JSON Schema's own words and:
`free` (any keys), `strings` (any keys, text), `each: path` (any keys, each like that value),
`like: path` (these keys, each like that value), `as: path` (like that value, each key optional),
`model: name` (as that pydantic model has it).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from tools import chart_settings
from tools.chart_binaries import ROOT
from tools.chart_kustomize import CHART, Json


@dataclass(frozen=True, slots=True)
class Value:
    """A value of values.yaml, and what its comments say."""

    path: str
    default: Any
    text: str = ""
    bounds: Json = field(default_factory=dict)
    children: tuple[Value, ...] = ()


def read(text: str) -> Value:
    """The whole of values.yaml."""
    lines = text.splitlines()

    def walk(path: str, node: yaml.Node, above: int) -> Value:
        says, bounds = _comments(lines, above)
        default = yaml.safe_load(yaml.serialize(node))
        children: list[Value] = []
        if isinstance(node, yaml.MappingNode):
            for key, child in node.value:
                # What stands on one line has no comments of its own.
                line = 0 if node.flow_style else key.start_mark.line
                children.append(walk(f"{path}.{key.value}".lstrip("."), child, line))
        return Value(path, default, says, bounds, tuple(children))

    root = yaml.compose(text)
    assert root is not None
    return walk("", root, 0)


def _comments(lines: list[str], line: int) -> tuple[str, Json]:
    """The explanation and the bounds that stand directly above a line."""
    text, bounds = "", {}
    while line > 0 and lines[line - 1].lstrip().startswith("# "):
        line -= 1
        words = lines[line].strip()
        if words.startswith("# -- "):
            text = words.removeprefix("# -- ")
        elif words.startswith("# @schema "):
            bounds = yaml.safe_load(words.removeprefix("# @schema "))
    return text, bounds


def find(value: Value, path: str) -> Value:
    """The value at a dotted path."""
    for child in value.children:
        if path == child.path:
            return child
        if path.startswith(f"{child.path}."):
            return find(child, path)
    raise KeyError(path)


def schema(root: Value, value: Value, whole: bool = True) -> Json:
    """JSON Schema of one value: its type is its default's, and no key is unknown.

    Helm takes a value out where somebody sets it to null. What has a default that is not empty must
    be there, or templates would meet nothing where they expect it.

    Args:
        whole: False for an item of `each`, which gets what it lacks from its defaults.
    """
    bounds = dict(value.bounds)
    if model := bounds.pop("model", None):
        return _of_model(value, chart_settings.of(model), whole)
    if other := bounds.pop("as", None):
        return {**schema(root, find(root, other), whole=False), "description": value.text}
    own: Json = {"type": _type(value.default)}
    if value.text:
        own["description"] = value.text
    if isinstance(value.default, dict) and not bounds.pop("free", False):
        if bounds.pop("strings", False):
            own["additionalProperties"] = {"type": "string"}
        elif each := bounds.pop("each", None):
            own["additionalProperties"] = schema(root, find(root, each), whole=False)
        else:
            like = bounds.pop("like", None)
            own["properties"] = {
                _key(child): schema(root, find(root, like) if like else child, whole)
                for child in value.children
            }
            own["additionalProperties"] = False
            if whole:
                own["required"] = [
                    _key(child) for child in value.children if child.default not in ([], {})
                ]
    return own | bounds


def _of_model(value: Value, made: Json, whole: bool) -> Json:
    """A model's own schema. What values.yaml explains, templates read: it must be there."""
    for child in value.children:
        if child.text:
            made["properties"][_key(child)]["description"] = child.text
    if value.text:
        made["description"] = value.text
    explained = [_key(child) for child in value.children if child.text]
    return made | ({"required": explained} if whole and explained else {})


def _key(value: Value) -> str:
    return value.path.rpartition(".")[2]


def _type(default: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(default), "object")


def table(value: Value) -> str:
    """A row of Markdown for each value that is explained."""
    rows = ["| value | default | |", "|---|---|---|"]

    def walk(value: Value) -> None:
        if value.text:
            default = json.dumps(value.default, ensure_ascii=False)
            default = "see values.yaml" if len(default) > 90 else f"`{default}`"
            rows.append(f"| `{value.path}` | {default} | {value.text} |")
            return
        for child in value.children:
            walk(child)

    walk(value)
    return "\n".join(rows)


def documents() -> dict[str, str]:
    """What is made of values.yaml alone, by path from the root: the schema, and the README."""
    root = read((CHART / "values.yaml").read_text(encoding="utf-8"))
    whole = schema(root, root)
    whole["properties"]["global"] = {"type": "object"}  # Helm puts it there for subcharts
    whole = {"$schema": "http://json-schema.org/draft-07/schema#", **whole}
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    marked = r"(<!-- values -->\n).*?(<!-- /values -->)"
    rows = table(root)
    return {
        "helm/trivium/values.schema.json": json.dumps(whole, indent=1) + "\n",
        "helm/trivium/README.md": re.sub(
            marked, lambda m: f"{m[1]}{rows}\n{m[2]}", readme, flags=re.DOTALL
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when stale")
    check = parser.parse_args().check
    for name, text in documents().items():
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            sys.exit(f"{name} is stale; run: make chart")
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
