"""Manifests: read from a file, or rendered from the chart by the `helm` binary."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serve_app.cluster.kube import Object, Ref
from serve_app.errors import SettingsError
from serve_app.plain_data import yaml_texts

_RENDER_S = 60.0
_HOOK = "helm.sh/hook"  # tests and jobs around an installation, which are not part of it

# What others lean on comes first, what leans on all comes last.
_ORDER = (
    "Namespace",
    "ServiceAccount",
    "Secret",
    "ExternalSecret",
    "ConfigMap",
    "PersistentVolumeClaim",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "NetworkPolicy",
    "Service",
)
_LAST = ("RayService",)


def read(text: str, source: str) -> list[Object]:
    """The objects of a rendered file, in the order in which they are applied.

    Raises:
        SettingsError: It is no YAML, holds nothing, or something that is no Kubernetes object.
    """
    documents = yaml_texts(text, source)
    objects: list[Object] = []
    for document in filter(None, documents):
        listed = isinstance(document, dict) and document.get("kind") == "List"
        objects += document.get("items", ()) if listed else [document]
    for number, each in enumerate(objects, 1):
        if not _is_object(each):
            raise SettingsError(
                f"{source}: object {number} has no apiVersion, kind and metadata.name"
            )
    found = [e for e in objects if _HOOK not in (e["metadata"].get("annotations") or {})]
    if not found:
        raise SettingsError(f"{source}: there is nothing in it to deploy")
    twice = sorted({str(Ref.of(e)) for e in found if _count(found, e) > 1})
    if twice:
        raise SettingsError(f"{source}: declared twice: {', '.join(twice)}")
    return sorted(found, key=_rank)


def from_file(path: Path) -> list[Object]:
    """The same from a file, or from standard input for `-`."""
    if str(path) == "-":
        return read(sys.stdin.read(), "standard input")
    try:
        return read(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None


def render(
    chart: str,
    release: str,
    namespace: str,
    values: Sequence[Path],
    settings: Sequence[str],
    server: tuple[str, Sequence[str]],
) -> list[Object]:
    """The objects of a chart, for the very API server that they go to.

    Args:
        settings: `key=value`, as of helm's `--set`.
        server: Its version, and every `group/version` that it serves.

    Raises:
        SettingsError: There is no helm, or the chart refuses the values; in helm's words.
    """
    helm = shutil.which("helm")
    if helm is None:
        raise SettingsError(
            "helm is not on PATH: install it (https://helm.sh/docs/intro/install), or render "
            "elsewhere and pass the result with --manifests"
        )
    command = [helm, "template", release, chart, "--namespace", namespace, "--no-hooks"]
    command += ["--kube-version", server[0]]
    command += [f"--api-versions={each}" for each in server[1]]
    command += [f"--values={path}" for path in values]
    command += [f"--set={each}" for each in settings]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_RENDER_S
        )
    except subprocess.TimeoutExpired:
        raise SettingsError(f"helm did not render {chart} within {_RENDER_S:.0f} s") from None
    if done.returncode:
        raise SettingsError(f"helm cannot render {chart}: {done.stderr.strip()}")
    return read(done.stdout, chart)


def ray_service(objects: Sequence[Object]) -> Object | None:
    """The one that serves, or None where there is none."""
    return next((each for each in objects if each["kind"] == "RayService"), None)


def _is_object(thing: Any) -> bool:
    if not isinstance(thing, dict) or not isinstance(thing.get("metadata"), dict):
        return False
    return bool(thing.get("apiVersion") and thing.get("kind") and thing["metadata"].get("name"))


def _count(objects: Sequence[Object], thing: Object) -> int:
    return sum(Ref.of(each) == Ref.of(thing) for each in objects)


def _rank(thing: Object) -> int:
    kind = thing["kind"]
    if kind in _LAST:
        return len(_ORDER) + 1
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
