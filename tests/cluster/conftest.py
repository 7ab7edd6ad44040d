from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from serve_app.cluster import rollout
from serve_app.cluster.kube import Kube
from tests.cli.conftest import Run, run
from tests.cluster import plane as planes
from tests.cluster.machine import Head, Kubelet, address, serving
from tests.cluster.objects import add_nodes, namespace, storage_class
from tests.cluster.plane import Plane
from tools.chart_binaries import helm

__all__ = ["run"]

# Those that KubeRay's operator looks after; in others RayServices are what tests say they are.
OPERATED = ("kind", "gpu", "production", "live")
OPERATOR = "quay.io/kuberay/operator:v1.6.1"


@pytest.fixture(scope="package")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A real control plane with KubeRay, two nodes and a storage class."""
    if reason := planes.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("plane")
    with planes.running(folder, ",".join(OPERATED)) as plane:
        plane.apply(*map(namespace, OPERATED), storage_class("fast", default=True))
        add_nodes(plane)
        yield plane


@pytest.fixture(scope="package")
def kube(plane: Plane) -> Kube:
    """As the admin, in a namespace that tests replace."""
    return Kube.connect(plane.kubeconfig(), None, "default")


@pytest.fixture(scope="package")
def kubelet(kube: Kube, plane: Plane) -> Iterator[Kubelet]:
    """Pods that are placed run; KubeRay's own too."""
    kubelet = Kubelet(kube, address() or "198.18.0.1")
    where = ["-n", "kuberay-system"]
    deployment = "deployment/kuberay-operator"
    plane.kubectl(*where, "set", "image", deployment, f"*={OPERATOR}")
    with kubelet.running():
        plane.kubectl(*where, "wait", "--for=condition=Available", deployment)
        yield kubelet


@pytest.fixture(scope="package")
def head(kubelet: Kubelet) -> Iterator[Head]:
    """Ray answers on the head pods."""
    if not (host := address()):
        pytest.skip("this machine has no address but the loopback, which the API server refuses")
    head = Head()
    with serving(head, host):
        yield head


@pytest.fixture
def trivium(run: Run, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`trivium` against that cluster, as the admin; looks at it as often as it can."""
    monkeypatch.setattr(rollout, "POLL_S", 0.1)
    monkeypatch.setenv("PATH", f"{helm().parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig()))
    return run
