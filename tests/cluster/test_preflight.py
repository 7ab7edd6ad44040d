"""What stands in the way is said before anything is changed: each against a real refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Outcome, Run
from tests.cluster.machine import Kubelet
from tests.cluster.objects import (
    GPU_TAINT,
    custom_kinds,
    named,
    namespace,
    quota,
    secret,
    storage_class,
)
from tests.cluster.plane import Plane
from tests.cluster.waiting import until
from tests.helm.chart import CHART, of_profile

Check = Callable[..., Outcome]
Failed = Callable[..., list[tuple[str, str, str]]]
SPACE = "checked"  # KubeRay's operator does not look at it


@pytest.fixture(scope="module")
def space(plane: Plane, kubelet: Kubelet) -> str:
    plane.apply(namespace(SPACE))
    return SPACE


@pytest.fixture
def preflight(trivium: Run, space: str) -> Check:
    """`trivium k8s preflight` of a profile; its values file may be one's own."""

    def call(*arguments: str, profile: str = "kind", command: str = "preflight") -> Outcome:
        chart = ["--chart", str(CHART), *of_profile(profile)]
        return trivium("k8s", command, "--namespace", space, *chart, *arguments)

    return call


@pytest.fixture
def failed(preflight: Check) -> Failed:
    """(check, sentence, remedy) of what failed."""

    def call(*arguments: str, **more: Any) -> list[tuple[str, str, str]]:
        done = preflight("--json", *arguments, **more)
        assert done.out, done.err
        found = json.loads(done.out)["preflight"]
        return [(e["check"], e["message"], e["remedy"]) for e in found if e["level"] == "failed"]

    return call


@pytest.fixture
def with_secrets(plane: Plane, space: str) -> Iterator[None]:
    """What the profile of GPUs reads."""
    name = ["-n", space, "secret/trivium"]
    keys = ("postgres-password", "hf-token", "first-key")
    plane.apply(secret("trivium", space, **dict.fromkeys(keys, "none")))
    yield
    plane.kubectl("delete", *name)


def values(folder: Path, given: object) -> list[str]:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    return ["-f", str(path)]


def test_nothing_stands_in_the_way_of_the_smallest_profile(preflight: Check) -> None:
    done = preflight()
    assert done.code == 0, done.err
    assert "nothing stands in the way" in done.out


def test_everything_is_said_at_once_and_nothing_changed(preflight: Check, plane: Plane) -> None:
    done = preflight(
        *("--set", "httpRoute.enabled=true", "--set", "httpRoute.hostnames={a.example.com}"),
        *("--set", "httpRoute.parentRefs[0].name=front", "--yes"),
        profile="gpu",
        command="install",
    )
    assert done.code == 1
    for sentence in (
        "the cluster does not know HTTPRoute of gateway.networking.k8s.io/v1",
        "or take an Ingress instead",
        "there is no secret trivium",
        "--from-literal=hf-token=… --from-literal=postgres-password=…",
        "stand in the way; nothing was changed",
    ):
        assert sentence in done.err
    assert plane.kubectl("-n", SPACE, "get", "rayservices,configmaps", "-o", "name").split() == [
        "configmap/kube-root-ca.crt"
    ]


def test_settings_are_read_by_their_own_models(failed: Failed, tmp_path: Path) -> None:
    table: Any = {"metered": {}, "compute": {"someone-else": {}}}
    [(check, sentence, _)] = failed(*values(tmp_path, {"prices": table}))
    assert check == "settings"
    assert "prices.yaml: compute.someone-else" in sentence


def test_no_operator_or_an_old_one(failed: Failed, plane: Plane, kubelet: Kubelet) -> None:
    where = ["-n", "kuberay-system"]
    deployment = "deployment/kuberay-operator"

    def runs(image: str) -> None:
        plane.kubectl(*where, "set", "image", deployment, f"*={image}")
        plane.kubectl(*where, "rollout", "status", deployment, "--timeout=30s")

    runs("quay.io/kuberay/operator:v1.4.2")
    try:
        [(check, sentence, remedy)] = failed()
        assert check == "operator"
        assert sentence == "the KubeRay operator in kuberay-system is 1.4, 1.6 is needed"
        assert remedy.startswith("helm upgrade --install kuberay-operator")
        plane.kubectl(*where, "scale", deployment, "--replicas=0")
        until(lambda: plane.kubectl(*where, "get", "pods", "-o", "name"), lambda names: not names)
        [(_, sentence, _)] = failed()
        assert sentence == "the KubeRay operator in kuberay-system is not up"
    finally:
        plane.kubectl(*where, "scale", deployment, "--replicas=1")
        runs("quay.io/kuberay/operator:v1.6.1")


def test_an_incremental_upgrade_needs_a_gateway_class(failed: Failed, plane: Plane) -> None:
    asked = ["--set", "upgrade.strategy=NewClusterWithIncrementalUpgrade"]
    asked += ["--set", "upgrade.gatewayClassName=istio", "--set", "ray.autoscaling=true"]
    [(check, _, remedy)] = failed(*asked)
    assert check == "gateway"
    assert remedy == "install the Gateway API CRDs, or upgrade with strategy NewCluster"
    [crd] = [e for e in custom_kinds() if e["spec"]["names"]["kind"] == "GatewayClass"]
    version = "gateway.networking.k8s.io/v1"
    plane.apply(crd)
    try:
        plane.await_kinds(version, "gatewayclasses")
        plane.apply(named(version, "GatewayClass", "envoy", spec={}))
        [(_, sentence, remedy)] = failed(*asked)
        assert sentence == "there is no GatewayClass istio"
        assert remedy.startswith("name one that is there (envoy)")
    finally:
        plane.kubectl("delete", "crd", crd["metadata"]["name"])


def test_gpus(failed: Failed, preflight: Check, plane: Plane, with_secrets: None) -> None:
    assert failed(profile="gpu") == []
    lacks = "trivium gpu asks for 1 × 2 nvidia.com/gpu, there is room for 0"
    own = ["--set", "workers.gpu.nodeSelector.card=h100"]
    [(check, sentence, remedy)] = failed(*own, profile="gpu")
    assert (check, sentence) == ("gpus", lacks)
    assert remedy == "match node selector and tolerations to your GPU nodes: gpu-1"
    many = ["--set", "workers.gpu.gpu.count=8"]
    [(_, _, remedy)] = failed(*many, profile="gpu")
    assert remedy == "add GPU nodes, ask for fewer replicas, or end what else holds GPUs"
    kind = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "other", "namespace": "default"},
    }
    limits = {"limits": {"nvidia.com/gpu": "3"}}
    container = {"name": "a", "image": "a", "resources": limits}
    tolerations = [{"key": GPU_TAINT["key"], "operator": "Exists"}]
    plane.apply({**kind, "spec": {"containers": [container], "tolerations": tolerations}})
    try:
        until(lambda: failed(profile="gpu"), bool)
        [(_, sentence, _)] = failed(profile="gpu")
        assert sentence == lacks
        assert preflight("--ignore", "gpus", profile="gpu").code == 0
    finally:
        plane.kubectl("delete", "pod", "other", "--force", "--grace-period=0")


def test_drivers(failed: Failed, preflight: Check, plane: Plane, with_secrets: None) -> None:
    def said() -> list[tuple[str, str]]:
        found = json.loads(preflight("--json", profile="gpu").out)["preflight"]
        return [(e["level"], e["message"]) for e in found if e["check"] == "drivers"]

    assert said() == [("warning", "gpu-1: no label tells the driver")]
    try:
        plane.kubectl("label", "node", "gpu-1", "nvidia.com/cuda.driver.major=570")
        [(check, sentence, remedy)] = failed(profile="gpu")
        assert check == "drivers"
        assert sentence == "CUDA 13 needs an NVIDIA driver of 580 or later: gpu-1 has 570"
        assert remedy.startswith("update it there (the GPU operator's driver.version)")
        plane.kubectl("label", "node", "gpu-1", "nvidia.com/cuda.driver-version.major=580")
        assert said() == [("ok", "580, which runs CUDA 13")]
    finally:
        names = ("driver.major", "driver-version.major")
        plane.kubectl("label", "node", "gpu-1", *(f"nvidia.com/cuda.{each}-" for each in names))


def test_a_secret_without_its_key(failed: Failed, plane: Plane, with_secrets: None) -> None:
    asked = ["--set", "secrets.env.HF_TOKEN=token"]
    [(check, sentence, remedy)] = failed(*asked, profile="gpu")
    assert (check, sentence) == ("secrets", "secret trivium has no key token")
    assert remedy == "add it to the secret; it has: first-key, hf-token, postgres-password"


def test_storage_classes(failed: Failed, plane: Plane) -> None:
    claim = ["--set", "state.claim.enabled=true", "--set", "state.claim.size=1Gi"]
    faster = [*claim, "--set", "state.claim.storageClass=faster"]
    [(check, sentence, remedy)] = failed(*faster)
    assert check == "storage"
    assert sentence.endswith("asks for storage class faster, which is not there")
    assert remedy == "name one that is there: fast"
    plane.apply(storage_class("fast", default=False))
    try:
        [(_, sentence, _)] = failed(*claim)
        assert "the cluster has no default one" in sentence
    finally:
        plane.apply(storage_class("fast", default=True))


def test_a_quota_that_is_used_up(failed: Failed, plane: Plane, space: str) -> None:
    plane.apply(quota("team", space, **{"requests.memory": "4Gi", "pods": "10"}))
    look = ["-n", space, "get", "resourcequota", "team", "-o", "jsonpath={.status.used}"]
    until(lambda: plane.kubectl(*look), bool)
    try:
        [(check, sentence, _)] = failed()
    finally:
        plane.kubectl("-n", space, "delete", "resourcequota", "team")
    assert check == "quota"
    assert sentence.startswith("quota team leaves 4.29497e+09 requests.memory, 9.66368e+09 are")


def test_missing_rights_are_named(trivium: Run, plane: Plane, space: str) -> None:
    reads = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}
    writes = {**reads, "verbs": ["create", "patch", "update", "delete"]}
    most = {**writes, "apiGroups": ["", "apps", "batch", "networking.k8s.io", "policy"]}
    rbac = "rbac.authorization.k8s.io/v1"
    role = named(rbac, "Role", "dev", space, rules=[reads, most])
    bound = {"apiGroup": rbac.partition("/")[0], "kind": "User", "name": "dev"}
    binding = named(
        rbac,
        "RoleBinding",
        "dev",
        space,
        subjects=[bound],
        roleRef={**bound, "kind": "Role"},
    )
    plane.apply(role, binding)
    login = ["--kubeconfig", str(plane.kubeconfig("dev"))]
    chart = ["--chart", str(CHART), *of_profile("kind")]
    done = trivium("k8s", "preflight", "--namespace", space, *chart, *login)
    assert done.code == 1
    assert "you may not create, patch rayservices.ray.io in namespace checked" in done.err
    # What may not be looked at stops nothing.
    assert "cannot be checked" in done.err


def test_pods_that_the_namespace_does_not_let_in(failed: Failed, tmp_path: Path) -> None:
    host = {"name": "host", "hostPath": {"path": "/"}}
    [(check, sentence, remedy)] = failed(*values(tmp_path, {"ray": {"extraVolumes": [host]}}))
    assert check == "admission"
    assert 'a pod of trivium head: pods "trivium-preflight-' in sentence
    assert 'violates PodSecurity "restricted:latest": restricted volume types' in sentence
    assert remedy.startswith("kubectl label --overwrite namespace checked")


def test_fields_of_others_and_fields_that_cannot_change(
    failed: Failed, preflight: Check, plane: Plane, space: str
) -> None:
    claim = named("v1", "PersistentVolumeClaim", "trivium-state", space)
    asks = {"requests": {"storage": "1Gi"}}
    claim["spec"] = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": asks}
    theirs = named("v1", "ConfigMap", "trivium-config", space, data={"settings.yaml": "theirs"})
    plane.apply(claim, theirs)
    asked = ["--set", "state.claim.enabled=true", "--set", "state.claim.size=1Gi"]
    try:
        found = [sentence for _, sentence, _ in failed(*asked)]
        [sentence] = [each for each in found if each.startswith("ConfigMap/trivium-config: ")]
        assert "belongs to another manager: .data.settings.yaml" in sentence
        assert 'conflict with "kubectl"' in sentence
        assert "--force-conflicts" in sentence
        [(check, sentence, remedy)] = failed(*asked, "--force-conflicts")
        assert check == "admission"
        assert sentence.startswith("PersistentVolumeClaim/trivium-state: ")
        assert remedy.startswith("keep the value as it was, or delete the object")
    finally:
        plane.kubectl("-n", space, "delete", "pvc/trivium-state", "cm/trivium-config")


def test_no_namespace(trivium: Run) -> None:
    chart = ["--chart", str(CHART), *of_profile("kind")]
    told = json.loads(trivium("k8s", "preflight", "-n", "nowhere", "--json", *chart).out)
    [found] = [each for each in told["preflight"] if each["level"] == "failed"]
    assert (found["check"], found["remedy"]) == ("namespace", "kubectl create namespace nowhere")


def test_a_cluster_that_does_not_answer_and_one_that_does_not_know_you(
    preflight: Check, plane: Plane, tmp_path: Path
) -> None:
    config = tmp_path / "kubeconfig"
    text = plane.kubeconfig().read_text(encoding="utf-8")
    config.write_text(text.replace(plane.address, "https://127.0.0.1:9"), encoding="utf-8")
    done = preflight("--kubeconfig", str(config))
    assert done.code == 1
    assert "the Kubernetes API at https://127.0.0.1:9 does not answer" in done.err
    config.write_text(text.replace("token: admin", "token: expired"), encoding="utf-8")
    done = preflight("--kubeconfig", str(config))
    assert done.code == 1
    assert "log in again" in done.err
    done = preflight("--kubeconfig", str(tmp_path / "none"))
    assert done.code == 2
    assert "no cluster to talk to" in done.err


def test_helm_refuses_in_its_own_words_or_is_not_there(
    preflight: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = preflight("--set", "upgrade.strategy=Never")
    assert done.code == 2
    assert "cannot be rendered" in done.err
    assert "strategy" in done.err
    monkeypatch.setenv("PATH", str(tmp_path))
    done = preflight()
    assert done.code == 2
    assert "helm is not on PATH" in done.err
