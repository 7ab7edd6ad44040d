"""Can the drivers of the nodes' GPUs run what the image brings along?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serve_app.cluster import needs
from serve_app.cluster.findings import Finding, Plan
from serve_app.cluster.kube import Object

_OLDEST = 580  # that runs CUDA 13, which vLLM's wheels are built for
# As NVIDIA's GPU feature discovery labels nodes, now and in older versions.
_LABELS = ("nvidia.com/cuda.driver-version.major", "nvidia.com/cuda.driver.major")


def drivers(plan: Plan) -> Iterator[Finding]:
    """Whether each node that may get a pod with GPUs has a driver for CUDA 13."""
    groups = [g for g in needs.groups(plan.objects) if needs.accelerators(needs.requests(g.pod))]
    if not groups:
        yield Finding("drivers", "ok", "no GPU is asked for")
        return
    nodes = plan.kube.find("v1", "Node")
    found = [each for each in nodes if any(_takes(each, group) for group in groups)]
    known = {each["metadata"]["name"]: driver for each in found if (driver := _driver(each))}
    old = {name: driver for name, driver in sorted(known.items()) if driver < _OLDEST}
    silent = sorted({each["metadata"]["name"] for each in found} - known.keys())
    if old:
        told = ", ".join(f"{name} has {driver}" for name, driver in old.items())
        what = f"CUDA 13 needs an NVIDIA driver of {_OLDEST} or later: {told}"
        remedy = (
            "update it there (the GPU operator's driver.version), or choose other nodes by "
            "workers.<group>.nodeSelector"
        )
        yield Finding("drivers", "failed", what, remedy)
    if silent or not found:
        where = ", ".join(silent)
        what = f"{where}: no label tells the driver" if found else "there is no node to look at yet"
        remedy = f"see that it is {_OLDEST} or later; NVIDIA's GPU feature discovery labels nodes"
        yield Finding("drivers", "warning", what, remedy)
    if new := _span([driver for driver in known.values() if driver >= _OLDEST]):
        yield Finding("drivers", "ok", f"{new}, which runs CUDA 13")


def _takes(node: Object, group: needs.Group) -> bool:
    """Whether the node lets the group's pods in and has GPUs of their kind."""
    offered = needs.accelerators((node.get("status") or {}).get("allocatable") or {})
    asked = needs.accelerators(needs.requests(group.pod))
    return offered.keys() >= asked.keys() and needs.fits(node, group.pod)


def _driver(node: Object) -> int | None:
    """Major version of a node's driver; None where no label tells it."""
    labels = node["metadata"].get("labels") or {}
    told = (labels.get(name, "") for name in _LABELS)
    return next((int(each) for each in told if each.isdecimal()), None)


def _span(versions: Sequence[int]) -> str:
    return "–".join(map(str, sorted({min(versions), max(versions)}))) if versions else ""
