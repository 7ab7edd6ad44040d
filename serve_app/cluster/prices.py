"""What a GPU-second of a release costs: its nodes' labels, looked up in the price table.

A node's price goes to its GPUs, in equal shares (a MIG slice counts by its sevenths); where it has
none, to the CPUs that its pods ask for. A node whose price nobody has written down is named with
the row that is missing, and nothing is guessed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import yaml

from serve_app.cluster import needs
from serve_app.cluster.kube import Kube, Object, Ref
from serve_app.errors import SettingsError
from serve_app.ledger.machines import MachinePrice, NodePrice
from serve_app.ledger.prices import PriceTable
from serve_app.settings import ExpertSettings

KEY = "machines.yaml"
_TYPE = "node.kubernetes.io/instance-type"
UNLABELLED = f"{{}} has no label {_TYPE}"
_PRODUCT = "nvidia.com/gpu.product"
# Who sells a node cheaper while it may be taken away says so in these labels.
_SPOT = {
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
}


@dataclass(frozen=True)
class NodeCost:
    """One node: what it is, and its price, or the row that is missing.

    Attributes:
        usd_per_hour: Of the whole node; None where nobody has written it down.
        row: Where the price is, or where it belongs: `nodes.g5.xlarge`. Empty for a node whose
            labels do not tell what it is.
        gpus: How many of its GPUs the release holds.
    """

    name: str
    row: str
    spot: bool
    usd_per_hour: float | None
    as_of: date | None
    gpus: float = 0.0


@dataclass
class Costs:
    """What a release's pods cost at this moment.

    Attributes:
        gpus: How many it holds, by product and capacity: `NVIDIA-A10G spot`.
        gpu_usd_per_hour: Of all of them together.
    """

    usd_per_hour: float = 0.0
    gpu_usd_per_hour: float = 0.0
    gpus: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    nodes: list[NodeCost] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """Rows that the price table lacks; without them `usd_per_hour` is too low."""
        return sorted({n.row for n in self.nodes if n.usd_per_hour is None and n.row})

    @property
    def unlabelled(self) -> list[str]:
        """Nodes of which nobody says what they are, so that no row can have their price."""
        return sorted(node.name for node in self.nodes if not node.row)

    @property
    def usd_per_gpu_second(self) -> float | None:
        """The mean of the GPUs that are held; None with none, or where one has no price."""
        count = sum(self.gpus.values())
        if not count or any(n.gpus and n.usd_per_hour is None for n in self.nodes):
            return None
        return self.gpu_usd_per_hour / count / 3600


def costs(kube: Kube, pods: Sequence[Object], table: PriceTable) -> Costs:
    """What some pods cost per hour, each its share of its node.

    Raises:
        PermissionDenied: Nodes may not be read.
    """
    nodes = {each["metadata"]["name"]: each for each in kube.find("v1", "Node")}
    held: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node in nodes and (pod.get("status") or {}).get("phase") == "Running":
            held[node].append(needs.requests(pod["spec"]))
    total = Costs()
    for name, asked in sorted(held.items()):
        _add(total, nodes[name], asked, table)
    return total


def _add(
    total: Costs, node: Object, asked: Sequence[Mapping[str, float]], table: PriceTable
) -> None:
    price = _price(node, table)
    offered = {k: needs.quantity(v) for k, v in node["status"]["allocatable"].items()}
    gpus = needs.accelerators(offered)
    label = (node["metadata"].get("labels") or {}).get(_PRODUCT, "GPU")
    taken: dict[str, float] = defaultdict(float)
    for pod in asked:
        for resource, n in pod.items():
            taken[resource] += n
    mine = {name: taken[name] for name in gpus if taken.get(name)}
    total.nodes.append(replace(price, gpus=sum(mine.values())))
    for resource, n in mine.items():
        slices = "" if resource == "nvidia.com/gpu" else f" {resource.partition('/')[2]}"
        total.gpus[f"{label}{slices}{' spot' if price.spot else ''}"] += n
    if gpus:
        share = _sevenths(mine) / _sevenths(gpus)
        total.gpu_usd_per_hour += share * (price.usd_per_hour or 0.0)
    else:
        share = min(1.0, taken.get("cpu", 0.0) / offered["cpu"])
    total.usd_per_hour += share * (price.usd_per_hour or 0.0)


def _sevenths(gpus: Mapping[str, float]) -> float:
    return sum(needs.weight(resource) * n for resource, n in gpus.items())


def _price(node: Object, table: PriceTable) -> NodeCost:
    """A node's price: by its instance type, or else by its GPUs."""
    name, labels = node["metadata"]["name"], node["metadata"].get("labels") or {}
    spot = any(labels.get(label) == value for label, value in _SPOT.items())
    rented, product = labels.get(_TYPE), labels.get(_PRODUCT)
    if rented in table.nodes or product not in table.gpus:
        row = f"nodes.{rented}" if rented else f"gpus.{product}" if product else ""
        found, count = table.nodes.get(rented or ""), 1.0
    else:
        row, found = f"gpus.{product}", table.gpus[product]
        gpus = needs.accelerators(node["status"]["allocatable"])
        count = _sevenths(gpus) / needs.weight("nvidia.com/gpu")
    amount = _amount(found, spot)
    if spot and found and amount is None:
        row += ".spot_usd_per_hour"
    hourly = None if amount is None else amount * count
    return NodeCost(name, row, spot, hourly, found.as_of if found else None)


def _amount(price: NodePrice | None, spot: bool) -> float | None:
    if price is None:
        return None
    return price.spot_usd_per_hour if spot else price.usd_per_hour


def replica(expert: ExpertSettings, found: Costs) -> MachinePrice:
    """What one replica of the expert costs now: its GPUs, at the mean price of those held.

    Raises:
        SettingsError: The expert runs without GPUs, holds none now, or a price is missing.
    """
    if expert.accelerator != "gpu":
        raise SettingsError("the expert runs on CPUs: its price is the price table's own")
    held = [node for node in found.nodes if node.gpus]
    if not held:
        raise SettingsError("no pod of the release holds a GPU now: prices stay as they are")
    if names := ", ".join(sorted(node.name for node in held if not node.row)):
        raise SettingsError(f"{UNLABELLED.format(names)}: set it")
    each = found.usd_per_gpu_second
    if each is None:
        rows = ", ".join(sorted({node.row for node in held if node.usd_per_hour is None}))
        raise SettingsError(f"the price table has no {rows}: add it, with source and as_of")
    engine = expert.engine
    parallel = ("tensor_parallel_size", "pipeline_parallel_size")
    count = math.prod(int(engine.get(name, 1)) for name in parallel)
    kinds = ", ".join(f"{n:g} {kind}" for kind, n in sorted(found.gpus.items()))
    return MachinePrice(
        usd_per_hour=count * each * 3600,
        source=f"{count} of the GPUs that were held: {kinds}; prices of "
        + ", ".join(sorted({node.row for node in held})),
        as_of=min(node.as_of for node in held if node.as_of),
    )


def write(kube: Kube, service: Object, model: str, price: MachinePrice) -> Ref:
    """Keep a price in the ConfigMap that gateways follow; returns which one that is."""
    name = f"{service['metadata']['name']}-machines"
    text = yaml.safe_dump({model: price.model_dump(mode="json")}, sort_keys=False)
    thing: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": kube.namespace},
        "data": {KEY: text},
    }
    # A manager of its own: a deployment that does not declare the data must not take it away.
    kube.apply(thing, force=True, manager="trivium-prices")
    return Ref.of(thing)
