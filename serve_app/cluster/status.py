"""How a release is: its groups of pods, its deployments and their queues, GPUs and dollars."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from serve_app.cluster import stack, trouble
from serve_app.cluster.kube import Kube, Object, Ref
from serve_app.cluster.prices import Costs, costs
from serve_app.cluster.rollout import is_ready
from serve_app.cluster.trouble import Trouble
from serve_app.errors import PermissionDenied, TriviumError
from serve_app.ledger.prices import PriceTable

_DASHBOARD, _METRICS = 8265, 8080
_QUEUE = "ray_serve_autoscaling_total_requests"


@dataclass(frozen=True)
class Group:
    """Pods of one group; bounds are the autoscaler's, None where there are none."""

    name: str
    ready: int
    pods: int
    least: int | None = None
    most: int | None = None


@dataclass(frozen=True)
class Deployment:
    """One Serve deployment.

    Attributes:
        replicas: That run, of those wanted; None where the dashboard cannot be asked.
        requests: Running and queued together, as the autoscaler sees them.
    """

    name: str
    status: str
    replicas: tuple[int, int] | None = None
    requests: float | None = None


@dataclass
class Status:
    """One release at this moment."""

    release: str
    state: str
    cluster: str
    groups: list[Group]
    deployments: list[Deployment]
    costs: Costs
    troubles: list[Trouble]
    notes: list[str] = field(default_factory=list)


def read(kube: Kube, release: str, table: PriceTable) -> Status:
    """Everything; what may not be read is left out and said in `notes`.

    Raises:
        NotFound: There is no such release.
    """
    service = stack.service(kube, release)
    names = stack.clusters(service)
    pods = stack.pods(kube, release, names)
    notes: list[str] = []
    try:
        cost = costs(kube, pods, table)
    except PermissionDenied as error:
        cost = Costs()
        notes.append(f"no prices: {error.message}")
    return Status(
        release=release,
        state=_state(service),
        cluster=", ".join(names),
        groups=_groups(kube, names, pods),
        deployments=_deployments(kube, service, notes),
        costs=cost,
        troubles=trouble.find(kube, service, pods),
        notes=notes,
    )


def _state(service: Object) -> str:
    status = service.get("status") or {}
    conditions = {e["type"]: e["status"] for e in status.get("conditions") or ()}
    if conditions.get("UpgradeInProgress") == "True":
        moved = (status.get("pendingServiceStatus") or {}).get("trafficRoutedPercent")
        return "upgrading" if moved is None else f"upgrading, {moved} % of the traffic has moved"
    return "ready" if conditions.get("Ready") == "True" else "not ready"


def _groups(kube: Kube, names: Sequence[str], pods: Sequence[Object]) -> list[Group]:
    bounds: dict[str, tuple[int | None, int | None]] = {}
    for name in names:
        cluster = kube.get(Ref(stack.RAY, "RayCluster", kube.namespace, name)) or {"spec": {}}
        for worker in cluster["spec"].get("workerGroupSpecs") or ():
            bounds[worker["groupName"]] = (worker.get("minReplicas"), worker.get("maxReplicas"))
    members: dict[str, list[Object]] = {name: [] for name in bounds}
    for pod in pods:
        members.setdefault(_group(pod), []).append(pod)
    return [
        Group(name, sum(map(is_ready, own)), len(own), *bounds.get(name, (None, None)))
        for name, own in sorted(members.items())
    ]


def _group(pod: Object) -> str:
    labels = pod["metadata"].get("labels") or {}
    if labels.get(stack.TYPE) == "head":
        return "head"
    component = labels.get("app.kubernetes.io/component", pod["metadata"]["name"])
    return str(labels.get(stack.GROUP, component))


def _deployments(kube: Kube, service: Object, notes: list[str]) -> list[Deployment]:
    """From the Ray dashboard; where it cannot be asked, what the RayService says of them."""
    status = (service.get("status") or {}).get("activeServiceStatus") or {}
    head = f"{status.get('rayClusterName')}-head-svc"
    token = _token(kube, status.get("rayClusterName", ""))
    try:
        told = json.loads(kube.proxy(head, _DASHBOARD, "/api/serve/applications/", token))
    except (TriviumError, ValueError) as error:
        if status:
            notes.append(f"no replicas: the Ray dashboard does not answer ({error})")
        return [
            Deployment(name, each["status"])
            for app in (status.get("applicationStatuses") or {}).values()
            for name, each in (app.get("serveDeploymentStatuses") or {}).items()
        ]
    queues = _queues(kube, head, notes)
    return [
        Deployment(name, each["status"], _replicas(each), queues.get(name))
        for app in told["applications"].values()
        for name, each in app["deployments"].items()
    ]


def _token(kube: Kube, cluster: str) -> Mapping[str, str]:
    """Header for a dashboard that wants a token; empty where there is none, or it is not ours.

    The API server keeps `Authorization` to itself, which is why Ray takes another header too.
    """
    try:
        secret = kube.get(Ref("v1", "Secret", kube.namespace, cluster)) if cluster else None
    except PermissionDenied:
        return {}
    token = ((secret or {}).get("data") or {}).get("auth_token")
    if not token:
        return {}
    return {"X-Ray-Authorization": f"Bearer {base64.b64decode(token).decode()}"}


def _replicas(deployment: Mapping[str, Any]) -> tuple[int, int]:
    running = sum(each["state"] == "RUNNING" for each in deployment["replicas"])
    return running, deployment["target_num_replicas"]


def _queues(kube: Kube, head: str, notes: list[str]) -> dict[str, float]:
    """Requests by deployment, of the controller's metrics on the head node."""
    try:
        families = text_string_to_metric_families(kube.proxy(head, _METRICS, "/metrics").decode())
        return {
            sample.labels["deployment"]: sample.value
            for family in families
            for sample in family.samples
            if sample.name == _QUEUE
        }
    except (TriviumError, ValueError) as error:
        notes.append(f"no queues: the head pod's metrics do not answer ({error})")
        return {}
