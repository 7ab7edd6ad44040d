"""Each profile by real Helm on the real API server, with the pods that KubeRay makes of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve_app.cluster import needs, stack
from serve_app.cluster.kube import Kube, Object
from tests.cluster.objects import custom_kinds
from tests.cluster.plane import Plane
from tests.cluster.waiting import until
from tests.helm.chart import CHART, PROFILES, of_profile
from tools.chart_binaries import helm, helm_3

Helm = Callable[..., str]


@pytest.fixture(scope="module")
def others(plane: Plane) -> Iterator[None]:
    """The kinds of other operators, for as long as these tests take."""
    kinds = custom_kinds()
    plane.apply(*kinds)
    names = [each["metadata"]["name"] for each in kinds]
    for each in kinds:
        spec = each["spec"]
        plane.await_kinds(f"{spec['group']}/{spec['versions'][0]['name']}", spec["names"]["plural"])
    yield
    plane.kubectl("delete", "crd", *names)


def by(program: Path, plane: Plane, profile: str) -> Helm:
    def call(*arguments: str) -> str:
        where = ["--namespace", profile, "--kubeconfig", str(plane.kubeconfig())]
        done = subprocess.run(
            [str(program), *arguments, *where],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_taken_and_its_pods_are_let_in(
    profile: str, plane: Plane, kube: Kube, others: None
) -> None:
    for program in (helm_3(), helm()):
        call = by(program, plane, profile)
        # Strict: a field that the server does not know is refused.
        call("install", "trivium", str(CHART), *of_profile(profile))
        pods = until(lambda: of_release(kube, profile), _complete)
        assert _complete(pods), refusals(kube, profile)
        call("upgrade", "trivium", str(CHART), *of_profile(profile), "--set", "fullnameOverride=")
        call("uninstall", "trivium")


def of_release(kube: Kube, space: str) -> tuple[int, list[Object]]:
    """How many pods the RayService asks for, and those of the cluster that KubeRay made of it."""
    [service] = found(kube, space, "ray.io/v1", "RayService")
    wanted = sum(group.replicas for group in needs.groups([service]))
    clusters = stack.clusters(service)
    pods = found(kube, space, "v1", "Pod")
    return wanted, [e for e in pods if e["metadata"]["labels"].get(stack.CLUSTER) in clusters]


def _complete(pods: tuple[int, list[Object]]) -> bool:
    return len(pods[1]) == pods[0]


def found(kube: Kube, space: str, version: str, kind: str) -> list[Object]:
    everywhere = kube.find(version, kind, everywhere=True)
    return [each for each in everywhere if each["metadata"]["namespace"] == space]


def refusals(kube: Kube, space: str) -> list[str]:
    events = found(kube, space, "v1", "Event")
    return [each["message"] for each in events if each["type"] == "Warning"]
