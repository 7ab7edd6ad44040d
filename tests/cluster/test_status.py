"""`trivium k8s status` and `trivium cost machines`: what runs, what is wrong, what it costs."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.cluster.kube import Kube, Object
from serve_app.domain import Usage
from serve_app.ledger.prices import PriceTable
from tests.cli.conftest import Outcome, Run
from tests.cluster.machine import Head, Kubelet, patch_status
from tests.cluster.objects import GPU_TAINT, add_node, add_nodes, named, namespace
from tests.cluster.plane import Plane
from tests.cluster.waiting import until
from tests.helm.chart import CHART, of_profile
from tools.chart_binaries import helm

Status = Callable[..., Outcome]
SPACE = "watched"  # KubeRay's operator does not look at it: a test says what its status is
CLUSTER = "trivium-abcde"
VALUES = [*of_profile("gpu"), "--set", "machinePrices.enabled=true"]
SERVICE = f"/apis/ray.io/v1/namespaces/{SPACE}/rayservices/trivium"
RUNNING = {"status": "RUNNING", "serveDeploymentStatuses": {"Gateway": {"status": "HEALTHY"}}}
PRICES = """
metered: {}
compute: {}
nodes:
  g5.12xlarge: {usd_per_hour: 5.6, spot_usd_per_hour: 2.4, source: test, as_of: 2026-11-01}
  m7i.2xlarge: {usd_per_hour: 0.4, source: test, as_of: 2026-10-01}
"""


@pytest.fixture(scope="module")
def pods(plane: Plane, kube: Kube, kubelet: Kubelet, head: Head) -> Iterator[None]:
    """The release of GPUs, with a pod for each of its groups as KubeRay labels them."""
    plane.apply(namespace(SPACE))
    where = ["--namespace", SPACE, "--kubeconfig", str(plane.kubeconfig())]
    install = [str(helm()), "install", "trivium", str(CHART), *VALUES, *where]
    subprocess.run(install, check=True, capture_output=True, timeout=60)
    head.running = {"trivium": ["Gateway"], "expert": ["Expert"]}
    head.config = {"applications": [{"name": "trivium"}, {"name": "expert"}]}
    service = named("v1", "Service", f"{CLUSTER}-head-svc", SPACE)
    ports = [{"name": f"p{port}", "port": port} for port in (8265, 8080)]
    service["spec"] = {"selector": {"ray.io/node-type": "head"}, "ports": ports}
    cluster = named("ray.io/v1", "RayCluster", CLUSTER, SPACE)
    config = kube.json("GET", SERVICE)["spec"]["rayClusterConfig"]
    plane.apply(service, {**cluster, "spec": config}, *(_pod(*each) for each in GROUPS))
    until(lambda: _running(kube), lambda count: count == len(GROUPS))
    until(lambda: _reached(kube), bool)
    yield
    plane.kubectl("delete", "namespace", SPACE, "--wait=false")


GROUPS = (("headgroup", "2", "0"), ("cpu", "4", "0"), ("gpu", "8", "2"))


def _pod(group: str, cpus: str, gpus: str) -> Object:
    kind = "head" if group == "headgroup" else "worker"
    labels = {"ray.io/cluster": CLUSTER, "ray.io/group": group, "ray.io/node-type": kind}
    asked = {"cpu": cpus, **({"nvidia.com/gpu": gpus} if gpus != "0" else {})}
    pod = named("v1", "Pod", f"{CLUSTER}-{group}", SPACE)
    pod["metadata"]["labels"] = labels
    secure = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    inside = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "ray", "image": "trivium", "resources": {"limits": asked}}
    tolerations = [{"key": GPU_TAINT["key"], "operator": "Exists"}] if gpus != "0" else []
    pod["spec"] = {
        "securityContext": secure,
        "tolerations": tolerations,
        "containers": [{**container, "securityContext": inside}],
    }
    return pod


def _running(kube: Kube) -> int:
    found = kube.find("v1", "Pod", f"ray.io/cluster={CLUSTER}", everywhere=True)
    return sum((each.get("status") or {}).get("phase") == "Running" for each in found)


def _reached(kube: Kube) -> list[Object]:
    found = kube.find("discovery.k8s.io/v1", "EndpointSlice", everywhere=True)
    return [e for e in found if e["metadata"]["namespace"] == SPACE and e.get("endpoints")]


@pytest.fixture
def says(kube: Kube, pods: None) -> Callable[..., None]:
    """Have the RayService's status say something, which its schema has to allow."""

    def call(apps: Object, ready: bool = True, **more: Any) -> None:
        active = {"rayClusterName": CLUSTER, "applicationStatuses": apps}
        conditions = [_condition("Ready", ready), _condition("UpgradeInProgress", bool(more))]
        status = {"activeServiceStatus": active, "conditions": conditions, **more}
        patch_status(kube, SERVICE, {"pendingServiceStatus": None, **status})

    call({"trivium": RUNNING, "expert": RUNNING})
    return call


def _condition(kind: str, holds: bool) -> Object:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": kind,
        "status": str(holds),
        "reason": "Said",
        "message": "",
        "lastTransitionTime": now,
    }


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES, "utf-8")
    return path


@pytest.fixture
def status(trivium: Run, says: Callable[..., None], prices: Path, head: Head) -> Iterator[Status]:
    """`trivium k8s status` of that release."""

    def call(*arguments: str, command: str = "k8s status") -> Outcome:
        return trivium(*command.split(), "-n", SPACE, "--prices", str(prices), *arguments)

    yield call
    head.refuses.clear()


@pytest.fixture
def nodes(plane: Plane) -> Iterator[Plane]:
    """Nodes that a test may change."""
    yield plane
    for name in ("cpu-1", "gpu-1"):
        plane.kubectl("label", "node", name, *(f"{each}-" for each in SPOT))
    add_nodes(plane)


SPOT = {
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
}


def test_applications_pods_queue_gpus_and_dollars(status: Status) -> None:
    done = status("--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["state"] == "ready"
    assert [(e["name"], e["ready"], e["pods"], e["most"]) for e in told["groups"]] == [
        ("cpu", 1, 1, 6),
        ("gpu", 1, 1, 4),
        ("head", 1, 1, None),
        ("milvus", 0, 1, None),
    ]
    gateway = {"name": "Gateway", "status": "HEALTHY", "replicas": [1, 2], "requests": 7.0}
    assert [(each["name"], each["status"]) for each in told["applications"]] == [
        ("trivium", "RUNNING"),
        ("expert", "RUNNING"),
    ]
    assert told["applications"][0]["deployments"] == [gateway]
    assert told["gpus"] == {"NVIDIA-A10G": 2.0}
    # Half of the GPU node's four GPUs, and six of the CPU node's 64 CPUs.
    assert told["usd_per_hour"] == pytest.approx(5.6 / 2 + 0.4 * 6 / 64)
    assert told["usd_per_gpu_second"] == pytest.approx(5.6 / 4 / 3600)
    table = status().out
    for text in ("trivium is ready", "expert", "1/2", "2 NVIDIA-A10G", "$2.84 per hour"):
        assert text in table


def test_the_application_that_failed_is_the_state(status: Status, says: Any, head: Head) -> None:
    failed = {"status": "DEPLOY_FAILED", "message": "Traceback …\nSettingsError: gateway.prot"}
    says({"trivium": failed, "expert": RUNNING})
    head.refuses = {'"trivium"': failed["message"]}
    done = status()
    assert done.code == 1
    assert "trivium is DEPLOY_FAILED" in done.out
    assert "application trivium: DEPLOY_FAILED: SettingsError: gateway.prot" in done.out
    trivium = json.loads(status("--json").out)["applications"][0]
    assert trivium["deployments"] == [
        {"name": "Gateway", "status": "replaced", "replicas": [1, None], "requests": 7.0}
    ]


def test_what_comes_counts_too(status: Status, says: Any) -> None:
    coming = {"rayClusterName": "trivium-fghij", "trafficRoutedPercent": 30}
    says({"trivium": RUNNING}, pendingServiceStatus=coming)
    done = status()
    assert done.code == 1
    assert "upgrading, 30 % of the traffic has moved" in done.out
    failed = {"applicationStatuses": {"trivium": {"status": "DEPLOY_FAILED", "message": "no"}}}
    says({"trivium": RUNNING}, pendingServiceStatus={**coming, **failed})
    assert "trivium is DEPLOY_FAILED" in status().out


def test_without_the_dashboard_the_rayservice_tells(
    status: Status, plane: Plane, says: Any
) -> None:
    where = ["-n", SPACE, "label", "pod", f"{CLUSTER}-headgroup", "--overwrite"]
    plane.kubectl(*where, "ray.io/node-type=away")
    try:
        until(lambda: "no replicas" in status("--json").out, bool)
        told = json.loads(status("--json").out)
    finally:
        plane.kubectl(*where, "ray.io/node-type=head")
        until(lambda: "no replicas" not in status("--json").out, bool)
    assert told["applications"][0]["deployments"] == [
        {"name": "Gateway", "status": "HEALTHY", "replicas": None, "requests": None}
    ]
    assert any("the Ray dashboard does not answer" in note for note in told["notes"])


def test_the_dashboards_token_travels_in_the_header_that_passes_the_api_server(
    status: Status, plane: Plane, head: Head
) -> None:
    token = base64.b64encode(b"ray-token").decode()
    plane.apply({**named("v1", "Secret", CLUSTER, SPACE), "data": {"auth_token": token}})
    done = status()
    assert "Bearer ray-token" in head.tokens
    assert "ray-token" not in done.out + done.err


def test_warnings_have_an_age_and_old_ones_are_over(
    status: Status, says: Any, plane: Plane
) -> None:
    says({}, ready=False)
    plane.apply(_warning("new", minutes=3), _warning("old", minutes=120))
    lines = status().out.splitlines()
    told = [line for line in lines if "Warned" in line]
    assert len(told) == 1
    assert told[0].endswith("RayService/trivium: Warned: it is new, 3 min ago")


def _warning(word: str, minutes: int) -> Object:
    then = datetime.now(UTC) - timedelta(minutes=minutes)
    about = {"apiVersion": "ray.io/v1", "kind": "RayService", "name": "trivium"}
    event = named("v1", "Event", f"trivium.{word}", SPACE)
    return {
        **event,
        "type": "Warning",
        "reason": "Warned",
        "message": f"it is {word}",
        "involvedObject": {**about, "namespace": SPACE},
        "lastTimestamp": then.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def test_watching_ends_with_ctrl_c(status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([None])

    def sleep(_: float) -> None:
        if next(looks, KeyboardInterrupt) is KeyboardInterrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr("serve_app.cli.k8s.time.sleep", sleep)
    done = status("--watch")
    assert done.code == 130
    assert "trivium is ready" in done.out


def test_no_such_release(status: Status) -> None:
    done = status("--release", "other")
    assert done.code == 2
    assert "no release 'other' in namespace 'watched'" in done.err
    assert "trivium k8s install" in done.err


def test_a_node_without_a_price_is_named_and_not_guessed(status: Status, nodes: Plane) -> None:
    add_node(nodes, "gpu-1", "p6.huge", *_gpu_node())
    told = json.loads(status("--json").out)
    assert told["missing_prices"] == ["nodes.p6.huge"]
    assert told["usd_per_hour"] is None
    assert told["usd_per_gpu_second"] is None
    assert "the price table lacks nodes.p6.huge" in status().out


def test_a_node_that_nobody_labels_is_not_a_kind_of_gpu(status: Status, nodes: Plane) -> None:
    nodes.kubectl("label", "node", "cpu-1", "node.kubernetes.io/instance-type-")
    told = json.loads(status("--json").out)
    assert (told["missing_prices"], told["unlabelled_nodes"]) == ([], ["cpu-1"])
    assert told["usd_per_hour"] is None
    assert "cpu-1 has no label node.kubernetes.io/instance-type" in status().out


def _gpu_node() -> tuple[Object, Object, Object]:
    offers = {"cpu": "48", "memory": "192Gi", "nvidia.com/gpu": "4"}
    return offers, {"nvidia.com/gpu.product": "NVIDIA-A10G"}, GPU_TAINT


def test_spot_has_its_own_price(status: Status, nodes: Plane) -> None:
    for label, value in SPOT.items():
        nodes.kubectl("label", "node", "gpu-1", f"{label}={value}")
        told = json.loads(status("--json").out)
        assert told["usd_per_gpu_second"] == pytest.approx(2.4 / 4 / 3600)
        assert told["gpus"] == {"NVIDIA-A10G spot": 2.0}
        nodes.kubectl("label", "node", "gpu-1", f"{label}-")
    nodes.kubectl("label", "node", "cpu-1", "cloud.google.com/gke-spot=true")
    told = json.loads(status("--json").out)
    assert told["missing_prices"] == ["nodes.m7i.2xlarge.spot_usd_per_hour"]


def test_a_machine_of_ones_own_is_priced_by_its_gpus(
    status: Status, nodes: Plane, prices: Path
) -> None:
    nodes.kubectl("label", "node", "gpu-1", "node.kubernetes.io/instance-type-")
    row = "gpus:\n  NVIDIA-A10G: {usd_per_hour: 0.5, source: test, as_of: 2026-11-01}\n"
    prices.write_text(prices.read_text("utf-8") + row, "utf-8")
    told = json.loads(status("--json").out)
    assert told["usd_per_gpu_second"] == pytest.approx(0.5 / 3600)


def test_nodes_that_may_not_be_read_leave_the_rest(status: Status, plane: Plane) -> None:
    rbac = "rbac.authorization.k8s.io"
    whom = {"apiGroup": rbac, "kind": "User", "name": "dev"}
    role = {"apiGroup": rbac, "kind": "ClusterRole", "name": "admin"}
    binding = named(f"{rbac}/v1", "RoleBinding", "dev", SPACE, subjects=[whom], roleRef=role)
    rays = {"apiGroups": ["ray.io"], "resources": ["*"], "verbs": ["get", "list"]}
    more = named(f"{rbac}/v1", "Role", "rays", SPACE, rules=[rays])
    ref = {**role, "kind": "Role", "name": "rays"}
    bound = named(f"{rbac}/v1", "RoleBinding", "rays", SPACE, subjects=[whom], roleRef=ref)
    plane.apply(binding, more, bound)
    done = status("--json", "--kubeconfig", str(plane.kubeconfig("dev")))
    told = json.loads(done.out)
    assert done.code == 0
    assert told["groups"]
    assert any(note.startswith("no prices: nodes is forbidden") for note in told["notes"])


def test_what_machines_cost_reaches_the_ledger(
    status: Status, plane: Plane, tmp_path: Path
) -> None:
    done = status("--write", command="cost machines")
    assert done.code == 0, done.err
    assert "llama-3.1-8b-instruct is priced by ConfigMap/trivium-machines" in done.out
    look = ["-n", SPACE, "get", "configmap", "trivium-machines", "-o", "json"]
    written = json.loads(plane.kubectl(*look))["data"]["machines.yaml"]
    # Helm's next revision leaves it alone.
    where = ["--namespace", SPACE, "--kubeconfig", str(plane.kubeconfig())]
    again = ["upgrade", "trivium", str(CHART), *VALUES, "--set-string", "image.tag=2", *where]
    subprocess.run([str(helm()), *again], check=True, capture_output=True, timeout=60)
    assert json.loads(plane.kubectl(*look))["data"]["machines.yaml"] == written
    mounted = tmp_path / "machines.yaml"
    mounted.write_text(written, "utf-8")
    row = yaml.safe_load(written)["llama-3.1-8b-instruct"]
    assert row["usd_per_hour"] == pytest.approx(2 * 5.6 / 4)  # a replica has two of four GPUs
    assert row["as_of"] == "2026-11-01"
    assert "nodes.g5.12xlarge" in row["source"]
    ours = Path("configs/prices.yaml")
    listed = PriceTable.load(ours).of("llama-3.1-8b-instruct", Usage(1000, 1000))
    known = PriceTable.load(ours, mounted).of("llama-3.1-8b-instruct", Usage(1000, 1000))
    assert known / listed == pytest.approx(2.8 / 2.0)


def test_a_price_that_is_not_known_is_not_written(status: Status, prices: Path) -> None:
    prices.write_text("metered: {}\ncompute: {}\n", "utf-8")
    done = status("--write", command="cost machines")
    assert done.code == 2
    assert "the price table has no nodes.g5.12xlarge: add it" in done.err
