"""What scheduler, kubelet and Ray Serve find in a manifest: do its pods run, do its settings hold?

Written from Kubernetes' own rules, not with the code under test, which reads the same manifests.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from unittest import mock

import yaml
from kubernetes.utils.quantity import parse_quantity

from serve_app.errors import SettingsError
from serve_app.settings import from_args
from tests.cluster.api import Api, Object

_REFERENCES = {
    "secretKeyRef": ("secrets", "name"),
    "secretRef": ("secrets", "name"),
    "secret": ("secrets", "secretName"),
    "configMapKeyRef": ("configmaps", "name"),
    "configMapRef": ("configmaps", "name"),
    "configMap": ("configmaps", "name"),
    "persistentVolumeClaim": ("persistentvolumeclaims", "claimName"),
}


def place(api: Api, pod: Object) -> str | None:
    """The first node that has room for a pod and takes it."""
    spec = pod["spec"]
    wanted = spec.get("nodeSelector") or {}
    for node in (each for each in api.objects.values() if each["kind"] == "Node"):
        labels = node["metadata"]["labels"]
        if all(labels.get(key) == value for key, value in wanted.items()):
            taints = node["spec"].get("taints") or ()
            free = node["status"]["allocatable"]
            fits = all(each <= parse_quantity(free.get(name, 0)) for name, each in _needs(spec))
            if fits and all(_tolerated(taint, spec.get("tolerations") or ()) for taint in taints):
                return str(node["metadata"]["name"])
    return None


def missing(api: Api, pod: Object) -> str | None:
    """What a pod refers to and is not there, as the kubelet says it."""
    namespace = pod["metadata"]["namespace"]
    for kind, name, key in _references(pod["spec"]):
        found = api.objects.get(("v1", kind, namespace, name))
        if found is None:
            return f'{kind.removesuffix("s")} "{name}" not found'
        if key and key not in found.get("data", {}):
            return f"couldn't find key {key} in {kind.removesuffix('s')} {namespace}/{name}"
    return None


def fault(service: Object) -> str | None:
    """Why the application does not start, as Serve tells it."""
    config = service["spec"]
    head = config["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    application = yaml.safe_load(config["serveConfigV2"])["applications"][0]
    variables = {each["name"]: str(each.get("value", "a secret")) for each in head.get("env", ())}
    try:
        with mock.patch.dict(os.environ, variables):
            from_args(application.get("args") or {})
    except SettingsError as error:
        return f"Traceback (most recent call last):\n  File ...\n{type(error).__name__}: {error}"
    return None


def _needs(spec: Object) -> Iterator[tuple[str, object]]:
    totals: dict[str, object] = {}
    for container in spec["containers"]:
        resources = container.get("resources") or {}
        asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        for name, amount in asked.items():
            totals[name] = totals.get(name, 0) + parse_quantity(amount)
    yield from totals.items()


def _tolerated(taint: Object, tolerations: Iterable[Object]) -> bool:
    return any(
        each.get("key") in (None, taint["key"])
        and each.get("effect") in (None, taint["effect"])
        and (each.get("operator") == "Exists" or each.get("value") == taint.get("value"))
        for each in tolerations
    )


def _references(node: object) -> Iterator[tuple[str, str, str | None]]:
    """Kind, name and key of everything that a pod's spec names and cannot do without."""
    if isinstance(node, list):
        for each in node:
            yield from _references(each)
    if not isinstance(node, dict):
        return
    for name, child in node.items():
        if name in _REFERENCES and isinstance(child, dict) and not child.get("optional"):
            kind, called = _REFERENCES[name]
            if called in child:
                yield kind, child[called], child.get("key")
        yield from _references(child)
