"""Objects that tests put into the cluster, as `kubectl apply` takes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.cluster.plane import Plane
from tests.helm.chart import SCHEMAS

Object = dict[str, Any]
GPU_TAINT = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
_STANDARD = "pod-security.kubernetes.io/enforce"
_DEFAULT = "storageclass.kubernetes.io/is-default-class"


def named(api_version: str, kind: str, name: str, space: str = "", **rest: Any) -> Object:
    meta = {"name": name, **({"namespace": space} if space else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, **rest}


def namespace(name: str, standard: str = "restricted") -> Object:
    thing = named("v1", "Namespace", name)
    thing["metadata"]["labels"] = {_STANDARD: standard}
    return thing


def storage_class(name: str, default: bool) -> Object:
    """Of volumes that nobody makes before a pod wants them."""
    thing = named("storage.k8s.io/v1", "StorageClass", name, provisioner="nobody.test/none")
    thing["metadata"]["annotations"] = {_DEFAULT: str(default).lower()}
    return {**thing, "volumeBindingMode": "WaitForFirstConsumer"}


def secret(name: str, space: str, **values: str) -> Object:
    return named("v1", "Secret", name, space, stringData=values)


def quota(name: str, space: str, **hard: str) -> Object:
    return named("v1", "ResourceQuota", name, space, spec={"hard": hard})


def add_nodes(plane: Plane) -> None:
    """A node of CPUs, and one that says that it has four GPUs."""
    add_node(plane, "cpu-1", "m7i.2xlarge", {"cpu": "64", "memory": "512Gi"})
    gpus = {"cpu": "48", "memory": "192Gi", "nvidia.com/gpu": "4"}
    labels = {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "NVIDIA-A10G"}
    add_node(plane, "gpu-1", "g5.12xlarge", gpus, labels, GPU_TAINT)


def add_node(
    plane: Plane,
    name: str,
    instance: str,
    offers: Object,
    labels: Object | None = None,
    *taints: Object,
) -> None:
    """A node that says what it has, as its kubelet would."""
    thing = named("v1", "Node", name)
    kind = {"node.kubernetes.io/instance-type": instance} if instance else {}
    thing["metadata"]["labels"] = {"kubernetes.io/hostname": name, **kind, **(labels or {})}
    plane.apply(thing)
    offers = {"pods": "110", **offers}
    ready = {"type": "Ready", "status": "True", "reason": "Said", "message": ""}
    status = {"capacity": offers, "allocatable": offers, "conditions": [ready]}
    # A node that is new is not ready, until its kubelet says so.
    for change, part in (({"status": status}, ["--subresource=status"]), (_tainted(taints), [])):
        plane.kubectl("patch", "node", name, "--type=merge", "-p", json.dumps(change), *part)


def _tainted(taints: Sequence[Object]) -> Object:
    return {"spec": {"taints": list(taints) or None}}


def custom_kinds() -> list[Object]:
    """CRDs of the operators of others that the production profile leans on; any spec is right."""
    kinds = json.loads((SCHEMAS / "others.json").read_text(encoding="utf-8"))
    gateways = [f"gateway.networking.k8s.io/v1 {kind}" for kind in ("Gateway", "GatewayClass")]
    return [_crd(*name.replace("/", " ").split()) for name in (*kinds, *gateways)]


def _crd(group: str, version: str, kind: str) -> Object:
    wide = kind.endswith("Class")
    plural = f"{kind.lower()}{'es' if wide else 's'}"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": anything, "status": anything}}
    served = {"name": version, "served": True, "storage": True}
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    crd = named("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{plural}.{group}")
    # Groups of Kubernetes' own want to be told who approved of them.
    crd["metadata"]["annotations"] = {"api-approved.kubernetes.io": "unapproved, for tests"}
    scope = "Cluster" if wide else "Namespaced"
    versions = [{**served, "schema": {"openAPIV3Schema": schema}}]
    spec = {"group": group, "names": names, "scope": scope, "versions": versions}
    return {**crd, "spec": spec}
