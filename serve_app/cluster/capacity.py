"""Is there room: for GPUs on the nodes, for everything in the namespace's quota?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from serve_app.cluster import needs, stack
from serve_app.cluster.findings import Finding, Plan
from serve_app.cluster.kube import Object
from serve_app.cluster.refusals import UnknownKind
from serve_app.errors import NotFound, PermissionDenied

_DONE = ("Succeeded", "Failed")


def gpus(plan: Plan) -> Iterator[Finding]:
    """Whether every pod that asks for GPUs finds a node with that many free."""
    groups = [g for g in needs.groups(plan.objects) if needs.accelerators(needs.requests(g.pod))]
    if not groups:
        yield Finding("gpus", "ok", "none are asked for")
        return
    nodes = plan.kube.find("v1", "Node")
    free = _free(plan, nodes)
    placed = [_place(group, nodes, free) for group in groups]
    for group, found in zip(groups, placed, strict=True):
        if found >= _wanted(group):
            yield Finding("gpus", "ok", f"{group.name}: room for {found} × {_told(group)}")
        elif found >= group.replicas and any(placed):
            yield replace(_lack(plan, group, found, nodes), level="warning")
        else:
            yield _lack(plan, group, found, nodes)


def _wanted(group: needs.Group) -> int:
    """Pods that a group starts with; one that may be empty is asked for one once it serves."""
    return max(1, group.replicas)


def _told(group: needs.Group) -> str:
    asked = needs.accelerators(needs.requests(group.pod))
    return " and ".join(f"{n:g} {resource}" for resource, n in asked.items())


def _lack(plan: Plan, group: needs.Group, found: int, nodes: Sequence[Object]) -> Finding:
    """That pods find no place, and what would help."""
    asked = needs.accelerators(needs.requests(group.pod))
    what = f"{group.name} asks for {_wanted(group)} × {_told(group)}, there is room for {found}"
    _, versions = plan.kube.versions()
    if any(each.startswith("karpenter.sh/") for each in versions):
        remedy = "Karpenter may add nodes; see that a NodePool allows for them"
        return Finding("gpus", "warning", what, remedy)
    having = [each for each in nodes if any(_allocatable(each).get(name) for name in asked)]
    if not having:
        remedy = (
            f"no node offers {', '.join(asked)}: add GPU nodes, or the GPU operator if they "
            "are there; where they come on demand, --ignore gpus"
        )
    elif not any(needs.fits(each, group.pod) for each in nodes):
        remedy = "match node selector and tolerations to your GPU nodes: " + ", ".join(
            sorted(each["metadata"]["name"] for each in having)
        )
    else:
        remedy = "add GPU nodes, ask for fewer replicas, or end what else holds GPUs"
    return Finding("gpus", "failed", what, remedy)


def _place(
    group: needs.Group, nodes: Sequence[Object], free: Mapping[str, dict[str, float]]
) -> int:
    """How many of a group's pods find a node; takes their share from what is free."""
    asked, placed = needs.accelerators(needs.requests(group.pod)), 0
    for node in nodes:
        if not needs.fits(node, group.pod):
            continue
        left = free[node["metadata"]["name"]]
        while placed < _wanted(group) and all(left.get(name, 0) >= n for name, n in asked.items()):
            for name, n in asked.items():
                left[name] -= n
            placed += 1
    return placed


def _free(plan: Plan, nodes: Sequence[Object]) -> dict[str, dict[str, float]]:
    """GPUs of each node that no pod of others holds; all of them, where pods may not be read."""
    free = {each["metadata"]["name"]: _allocatable(each) for each in nodes}
    try:
        everywhere = plan.kube.find("v1", "Pod", everywhere=True)
    except PermissionDenied:
        return free
    own = {each["metadata"]["name"] for each in _own(plan)}
    for pod in everywhere:
        meta, node = pod["metadata"], (pod.get("spec") or {}).get("nodeName")
        mine = meta["namespace"] == plan.kube.namespace and meta["name"] in own
        if mine or node not in free or (pod.get("status") or {}).get("phase") in _DONE:
            continue
        for name, n in needs.accelerators(needs.requests(pod["spec"])).items():
            free[node][name] = free[node].get(name, 0) - n
    return free


def _allocatable(node: Object) -> dict[str, float]:
    return needs.accelerators((node.get("status") or {}).get("allocatable") or {})


def _own(plan: Plan) -> list[Object]:
    """Pods that this release runs already, whose place the new ones take."""
    try:
        names = stack.clusters(stack.service(plan.kube, plan.release))
    except (NotFound, UnknownKind):
        names = []
    return stack.pods(plan.kube, plan.release, names)


def quota(plan: Plan) -> Iterator[Finding]:
    """Whether the namespace's quotas leave room, the release's present pods left out."""
    quotas = plan.kube.find("v1", "ResourceQuota")
    if not quotas:
        yield Finding("quota", "ok", "the namespace has none")
        return
    asked = _total([(group.pod, group.replicas) for group in needs.groups(plan.objects)])
    held = _total([(each["spec"], 1) for each in _own(plan)])
    for each in quotas:
        name, short = each["metadata"]["name"], False
        status = each.get("status") or {}
        for resource, hard in (each["spec"].get("hard") or {}).items():
            used = needs.quantity((status.get("used") or {}).get(resource, 0))
            room = needs.quantity(hard) - used + held.get(resource, 0)
            if asked.get(resource, 0) > room:
                short = True
                what = f"quota {name} leaves {room:g} {resource}, {asked[resource]:g} are asked for"
                yield Finding("quota", "failed", what, "ask for more quota, or for fewer replicas")
        if not short:
            yield Finding("quota", "ok", f"{name} leaves room")


def _total(pods: Sequence[tuple[Mapping[str, object], int]]) -> dict[str, float]:
    """What so many pods take of a quota, by the quota's names."""
    total: dict[str, float] = defaultdict(float)
    for pod, count in pods:
        total["pods"] += count
        for name, n in needs.requests(pod).items():
            total[f"requests.{name}"] += n * count
            if name in ("cpu", "memory"):
                total[name] += n * count
        for name, n in needs.limits(pod).items():
            total[f"limits.{name}"] += n * count
    return dict(total)
