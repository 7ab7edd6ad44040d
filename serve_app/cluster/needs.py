"""What manifests ask of a cluster: pods and their resources, secrets, volumes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from serve_app.cluster.kube import Object

ACCELERATOR = "nvidia.com/"
_MIG = re.compile(r"nvidia\.com/mig-(\d+)g\..+")
_SLICES = 7  # of a whole GPU
_WORKLOADS = ("Deployment", "StatefulSet")
_RAY = ("RayService", "RayCluster")
# Whose secrets must be there before they start.
_RUN = (*_WORKLOADS, *_RAY, "RayJob", "DaemonSet", "Job", "CronJob", "Pod")


class Group(NamedTuple):
    """Pods of one kind that run side by side."""

    name: str
    pod: Mapping[str, Any]
    replicas: int


@dataclass(frozen=True)
class SecretKey:
    """A secret, and the keys of it that are read; without keys it is taken whole."""

    name: str
    keys: frozenset[str]


def quantity(text: Any) -> float:
    """A Kubernetes quantity (`500m`, `8Gi`) as a number."""
    from kubernetes.utils.quantity import parse_quantity

    value: Decimal = parse_quantity(text)
    return float(value)


def groups(objects: Sequence[Object]) -> list[Group]:
    """Every group of pods that runs all the time, with the least number of them."""
    return [group for thing in objects for group in _groups(thing)]


def _groups(thing: Object) -> Iterator[Group]:
    name, spec = thing["metadata"]["name"], thing.get("spec") or {}
    if thing["kind"] in _WORKLOADS:
        yield Group(name, spec["template"]["spec"], spec.get("replicas", 1))
    elif thing["kind"] in _RAY:
        cluster = spec["rayClusterConfig"] if thing["kind"] == "RayService" else spec
        yield Group(f"{name} head", cluster["headGroupSpec"]["template"]["spec"], 1)
        for worker in cluster.get("workerGroupSpecs") or ():
            # The API server fills `replicas` in with 0; the operator heeds the larger.
            least = max(worker.get("replicas") or 0, worker.get("minReplicas") or 0)
            replicas = least * worker.get("numOfHosts", 1)
            yield Group(f"{name} {worker['groupName']}", worker["template"]["spec"], replicas)


def requests(pod: Mapping[str, Any]) -> dict[str, float]:
    """What one pod's containers ask for together; what is only limited is asked for too."""
    return _summed([{**_given(c, "limits"), **_given(c, "requests")} for c in _containers(pod)])


def limits(pod: Mapping[str, Any]) -> dict[str, float]:
    """What one pod's containers may use at most, together."""
    return _summed([_given(container, "limits") for container in _containers(pod)])


def variables(objects: Sequence[Object]) -> set[str]:
    """Names in the environment of Ray's pods, wherever their values come from."""
    pods = (group.pod for thing in objects if thing["kind"] in _RAY for group in _groups(thing))
    return {each["name"] for pod in pods for c in _containers(pod) for each in c.get("env") or ()}


def _containers(pod: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return pod.get("containers") or ()


def _given(container: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return (container.get("resources") or {}).get(kind) or {}


def _summed(amounts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for each in amounts:
        for name, amount in each.items():
            total[name] += quantity(amount)
    return dict(total)


def accelerators(amounts: Mapping[str, Any]) -> dict[str, float]:
    """GPUs and MIG slices among resources, by resource name."""
    found = {name: quantity(n) for name, n in amounts.items() if name.startswith(ACCELERATOR)}
    return {name: n for name, n in found.items() if n}


def weight(resource: str) -> int:
    """A resource's share of a GPU, in sevenths: what MIG cuts it into."""
    slices = _MIG.fullmatch(resource)
    return int(slices[1]) if slices else _SLICES


def secrets(objects: Sequence[Object]) -> list[SecretKey]:
    """Secrets that pods read and that the manifests do not make."""
    made = {name for thing in objects for name in _made(thing)}
    keys: dict[str, set[str]] = {}
    for thing in objects:
        if thing["kind"] in _RUN:
            for name, key in _secret_keys(thing.get("spec")):
                keys.setdefault(name, set()).update({key} if key else ())
    return [SecretKey(name, frozenset(k)) for name, k in sorted(keys.items()) if name not in made]


def _made(thing: Object) -> Iterator[str]:
    name, spec = thing["metadata"]["name"], thing.get("spec") or {}
    match thing["kind"]:
        case "Secret" | "SealedSecret":
            yield name
        case "ExternalSecret":
            yield (spec.get("target") or {}).get("name", name)
        case "Certificate":
            yield spec["secretName"]


def _secret_keys(node: Any) -> Iterator[tuple[str, str | None]]:
    """(secret, key) of every reference in a tree that is not optional."""
    if isinstance(node, list):
        for each in node:
            yield from _secret_keys(each)
    if not isinstance(node, dict):
        return
    for field, value in node.items():
        if field in ("secretKeyRef", "secretRef") and not value.get("optional"):
            yield value["name"], value.get("key")
        elif field == "secret" and isinstance(value, dict) and not value.get("optional"):
            items = value.get("items") or [{"key": None}]
            if name := value.get("secretName") or value.get("name"):
                yield from ((name, item["key"]) for item in items)
        elif field == "imagePullSecrets":
            yield from ((each["name"], None) for each in value)
        else:
            yield from _secret_keys(value)


def claims(objects: Sequence[Object]) -> list[Mapping[str, Any]]:
    """Volume claims that the manifests make, as `{metadata, spec}`."""
    found: list[Mapping[str, Any]] = []
    for thing in objects:
        if thing["kind"] == "PersistentVolumeClaim":
            found.append(thing)
        elif thing["kind"] == "StatefulSet":
            found += (thing.get("spec") or {}).get("volumeClaimTemplates") or ()
    return found


def mounted_claims(objects: Sequence[Object]) -> set[str]:
    """Volume claims that pods mount and that the manifests do not make."""
    made = {each["metadata"]["name"] for each in claims(objects)}
    volumes: Iterable[Mapping[str, Any]] = (
        volume for group in groups(objects) for volume in group.pod.get("volumes") or ()
    )
    names = {
        v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v
    }
    return names - made


def fits(node: Object, pod: Mapping[str, Any]) -> bool:
    """Whether a node's labels and taints let a pod in; affinities are left to the scheduler."""
    spec, labels = node.get("spec") or {}, node["metadata"].get("labels") or {}
    if spec.get("unschedulable"):
        return False
    if any(labels.get(k) != v for k, v in (pod.get("nodeSelector") or {}).items()):
        return False
    tolerations = pod.get("tolerations") or ()
    return all(
        any(_tolerates(toleration, taint) for toleration in tolerations)
        for taint in spec.get("taints") or ()
        if taint["effect"] in ("NoSchedule", "NoExecute")
    )


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    wanted = (toleration.get("key"), toleration.get("value", ""))
    return wanted == (taint["key"], taint.get("value", ""))
