"""The chart as tests see it: rendered by real Helm, its pods found, its schemas made strict."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

from tools.chart_binaries import helm

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "trivium"
SCHEMAS = Path(__file__).parent / "schemas"
PROFILES = ("kind", "gpu", "production")
KUBERNETES = tuple(f"1.{minor}" for minor in range(31, 38))


class Refused(Exception):
    """Helm does not render these values; says what Helm said."""


def of_profile(profile: str) -> list[str]:
    """Helm's arguments for a profile; `default` is values.yaml alone."""
    return [] if profile == "default" else ["-f", str(CHART / f"values-{profile}.yaml")]


def command(program: Path, *arguments: str) -> str:
    """What a command of Helm's prints.

    Raises:
        Refused: It failed.
    """
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise Refused(done.stdout + done.stderr)
    return done.stdout


@functools.cache
def render(*arguments: str, program: Path | None = None) -> tuple[Json, ...]:
    """Every manifest of the release `trivium`, the test's pod too."""
    text = command(program or helm(), "template", "trivium", str(CHART), *arguments)
    return tuple(each for each in yaml.safe_load_all(text) if each)


def one(manifests: tuple[Json, ...], kind: str, name: str = "trivium") -> Json:
    """The manifest of that kind and name."""
    (found,) = (m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name)
    return found


def settings_file(manifests: tuple[Json, ...]) -> Json:
    """The settings of the release, as commands beside it read them."""
    config = one(manifests, "ConfigMap", "trivium-config")
    found: Json = yaml.safe_load(config["data"]["settings.yaml"])
    return found


def applications(manifests: tuple[Json, ...]) -> list[Json]:
    """What Ray Serve is told."""
    config = yaml.safe_load(one(manifests, "RayService")["spec"]["serveConfigV2"])
    found: list[Json] = config["applications"]
    return found


def pods(manifest: Json) -> Iterator[tuple[str, Json]]:
    """Every pod template inside a manifest, with where it is: whatever has containers."""
    yield from _pods(manifest, f"{manifest['kind']}/{manifest['metadata']['name']}")


def _pods(node: Any, where: str) -> Iterator[tuple[str, Json]]:
    if isinstance(node, dict):
        if isinstance(node.get("spec"), dict) and "containers" in node["spec"]:
            yield where, node
            return
        for key, child in node.items():
            yield from _pods(child, f"{where}.{key}")
    elif isinstance(node, list):
        for number, child in enumerate(node):
            yield from _pods(child, f"{where}[{number}]")


def problems(manifest: Json, version: str, operator: str = "1.6") -> list[str]:
    """Where a manifest differs from its schema; unknown fields do too."""
    name = f"{manifest['apiVersion']} {manifest['kind']}"
    if name in _custom(operator):
        return [
            f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
            for error in _custom(operator)[name].iter_errors(manifest)
        ]
    return _builtin(json.dumps(manifest, sort_keys=True), version)


@functools.cache
def _builtin(manifest: str, version: str) -> list[str]:
    """Of a kind of Kubernetes' own. Kept, as most manifests are the same in most combinations."""
    try:
        kubernetes_validate.validate(json.loads(manifest), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}"]
    return []


@functools.cache
def _custom(operator: str) -> dict[str, Draft202012Validator]:
    schemas = {}
    newer = json.loads((SCHEMAS / "since-1.7.json").read_text(encoding="utf-8"))
    for kind in ("RayService", "RayJob"):
        text = (SCHEMAS / f"{kind.lower()}-v1.schema.json").read_text(encoding="utf-8")
        schema = schemas[f"ray.io/v1 {kind}"] = json.loads(text)
        for path in newer[kind] if operator == "1.6" else []:
            _remove(schema, path.split("."))
    for name, spec in json.loads((SCHEMAS / "others.json").read_text(encoding="utf-8")).items():
        string = {"type": "string"}
        whole = {"apiVersion": string, "kind": string, "metadata": {"type": "object"}, "spec": spec}
        schemas[name] = {"type": "object", "properties": whole}
    return {name: Draft202012Validator(_strict(schema)) for name, schema in schemas.items()}


def _remove(schema: Json, path: list[str]) -> None:
    """Take a field out; `[]` behind a name stands for the items of a list."""
    *above, last = path
    for name in above:
        schema = schema["properties"][name.removesuffix("[]")]
        schema = schema["items"] if name.endswith("[]") else schema
    del schema["properties"][last]


def _strict(node: Any) -> Any:
    """The same schema, refusing fields that it does not know."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    strict = {key: _strict(child) for key, child in node.items()}
    known = isinstance(node.get("properties"), dict) and node.get("type") == "object"
    if known and not node.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict
