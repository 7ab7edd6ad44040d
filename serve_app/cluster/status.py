"""How a release is: its applications, its groups of pods and their queues, GPUs and dollars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from serve_app.cluster import serving, stack, trouble
from serve_app.cluster.kube import Kube, Object, Ref
from serve_app.cluster.prices import Costs, costs
from serve_app.cluster.serving import Application
from serve_app.cluster.trouble import Trouble
from serve_app.errors import PermissionDenied
from serve_app.ledger.prices import PriceTable


@dataclass(frozen=True)
class Group:
    """Pods of one group; bounds are the autoscaler's, None where there are none."""

    name: str
    ready: int
    pods: int
    least: int | None = None
    most: int | None = None


@dataclass
class Status:
    """One release at this moment.

    Attributes:
        state: `ready`, or what keeps it from being so: an application's word (`DEPLOY_FAILED`),
            an upgrade under way, pods that are not there.
    """

    release: str
    state: str
    cluster: str
    groups: list[Group]
    applications: list[Application]
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
    apps = serving.read(kube, service, notes)
    return Status(
        release=release,
        state=_state(service, apps),
        cluster=", ".join(names),
        groups=_groups(kube, names, pods),
        applications=apps,
        costs=cost,
        troubles=trouble.find(kube, service, pods),
        notes=notes,
    )


def _state(service: Object, apps: Sequence[Application]) -> str:
    """The application's state comes first: Kubernetes' "ready" only counts endpoints."""
    coming = serving.told(stack.upcoming(service))
    if failed := [each.status for each in (*apps, *coming) if each.failed]:
        return min(failed)  # DEPLOY_FAILED before UNHEALTHY
    status = service.get("status") or {}
    conditions = {e["type"]: e["status"] for e in status.get("conditions") or ()}
    if conditions.get("UpgradeInProgress") == "True":
        moved = (status.get("pendingServiceStatus") or {}).get("trafficRoutedPercent")
        return "upgrading" if moved is None else f"upgrading, {moved} % of the traffic has moved"
    if conditions.get("Ready") != "True" or not apps:
        return "not ready"
    return "ready" if all(each.up for each in apps) else "DEPLOYING"


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
        Group(name, sum(map(stack.is_ready, own)), len(own), *bounds.get(name, (None, None)))
        for name, own in sorted(members.items())
    ]


def _group(pod: Object) -> str:
    labels = pod["metadata"].get("labels") or {}
    if labels.get(stack.TYPE) == "head":
        return "head"
    component = labels.get("app.kubernetes.io/component", pod["metadata"]["name"])
    return str(labels.get(stack.GROUP, component))
