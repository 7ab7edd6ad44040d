"""What stands in the way is said before anything is changed, all at once, each with its remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cluster import house
from tests.cluster.api import Api, kubeconfig
from tests.cluster.conftest import MANIFESTS, Deploy

SECRET = ("v1", "secrets", "trivium", "trivium-secrets")


def findings(deploy: Deploy, *arguments: str, **more: Any) -> list[tuple[str, str, str]]:
    """(check, sentence, remedy) of what failed."""
    told = json.loads(deploy("--yes", "--json", *arguments, **more).out)
    found = told["preflight"]
    return [(e["check"], e["message"], e["remedy"]) for e in found if e["level"] == "failed"]


def test_everything_is_said_at_once_and_nothing_changed(api: Api, deploy: Deploy) -> None:
    del api.kinds["ray.io/v1"]
    del api.objects[SECRET]
    api.put(house.operator("1.4.2"))
    done = deploy("--yes")
    assert done.code == 1
    for sentence in (
        "the cluster does not know RayService of ray.io/v1",
        "install the KubeRay operator",
        "is 1.4, 1.6 is needed",
        "there is no secret trivium-secrets",
        "3 of 8 findings stand in the way; nothing was changed",
    ):
        assert sentence in done.err
    assert api.applied == []


def test_a_crd_of_another_version(api: Api, deploy: Deploy) -> None:
    api.kinds["ray.io/v1alpha1"] = api.kinds.pop("ray.io/v1")
    [(check, sentence, _)] = findings(deploy)
    assert check == "kinds"
    assert sentence.endswith("(of ray.io it serves ray.io/v1alpha1)")


def test_a_route_needs_the_gateway_api(deploy: Deploy) -> None:
    route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: front}"
    [(check, sentence, remedy)] = findings(deploy, change=[("# What", f"{route}\n---\n#")])
    assert (check, sentence) == (
        "kinds",
        "the cluster does not know HTTPRoute of gateway.networking.k8s.io/v1",
    )
    assert "take an Ingress instead" in remedy


def test_an_incremental_upgrade_needs_a_gateway_class(api: Api, deploy: Deploy) -> None:
    options = "{ clusterUpgradeOptions: { gatewayClassName: istio } }"
    asked = [("  serveConfigV2: |", f"  upgradeStrategy: {options}\n  serveConfigV2: |")]
    [(check, sentence, remedy)] = findings(deploy, change=asked)
    assert (check, remedy) == (
        "gateway",
        "install the Gateway API CRDs, or upgrade with strategy NewCluster",
    )
    version = "gateway.networking.k8s.io/v1"
    api.kinds[version] = {"gatewayclasses": ("GatewayClass", False)}
    api.put(house.named(version, "GatewayClass", "envoy"))
    [(_, sentence, remedy)] = findings(deploy, change=asked)
    assert sentence == "there is no GatewayClass istio"
    assert remedy.startswith("name one that is there (envoy)")
    api.put(house.named(version, "GatewayClass", "istio"))
    assert findings(deploy, change=asked) == []


def test_no_operator(api: Api, deploy: Deploy) -> None:
    del api.objects["apps/v1", "deployments", "kuberay-system", "kuberay-operator"]
    [(check, sentence, remedy)] = findings(deploy)
    assert (check, sentence) == ("operator", "no KubeRay operator runs in this cluster")
    assert remedy.startswith("helm upgrade --install kuberay-operator")


def test_an_operator_that_is_down(api: Api, deploy: Deploy) -> None:
    thing = house.operator("1.7.0")
    thing["status"] = {}
    api.put(thing)
    [(_, sentence, remedy)] = findings(deploy)
    assert sentence == "the KubeRay operator in kuberay-system is not up"
    assert "describe deployment kuberay-operator" in remedy


def test_no_gpu_nodes(api: Api, deploy: Deploy) -> None:
    del api.objects["v1", "nodes", "", "gpu-1"]
    [(check, sentence, remedy)] = findings(deploy)
    assert check == "gpus"
    assert sentence == "trivium gpu asks for 1 × 2 nvidia.com/gpu, there is room for 0"
    assert remedy.startswith("no node offers nvidia.com/gpu: add GPU nodes")
    api.operator = house.gets_a_node
    assert deploy("--yes", "--ignore", "gpus").code == 0


def test_gpu_nodes_that_would_come_are_only_warned_of(api: Api, deploy: Deploy) -> None:
    del api.objects["v1", "nodes", "", "gpu-1"]
    api.kinds["karpenter.sh/v1"] = {"nodepools": ("NodePool", False)}
    api.operator = house.gets_a_node
    done = deploy("--yes")
    assert done.code == 0, done.err
    assert "Karpenter may add nodes" in done.err


def test_gpu_nodes_that_let_nobody_in(deploy: Deploy) -> None:
    [(_, _, remedy)] = findings(deploy, change=[("gpu: a10g", "gpu: h100")])
    assert remedy == "match node selector and tolerations to your GPU nodes: gpu-1"
    taint = "tolerations: [{ key: nvidia.com/gpu, operator: Exists, effect: NoSchedule }]"
    [(_, _, remedy)] = findings(deploy, change=[(taint, "tolerations: []")])
    assert remedy == "match node selector and tolerations to your GPU nodes: gpu-1"


def test_gpus_that_others_hold(api: Api, deploy: Deploy) -> None:
    other = house.named("v1", "Pod", "training", "research")
    limits = {"nvidia.com/gpu": "3"}
    other["spec"] = {"nodeName": "gpu-1", "containers": [{"resources": {"limits": limits}}]}
    api.put(other)
    [(_, sentence, remedy)] = findings(deploy)
    assert sentence.endswith("there is room for 0")
    assert "end what else holds GPUs" in remedy


def test_the_pods_that_are_replaced_hold_nothing_against_an_upgrade(deploy: Deploy) -> None:
    # Two pods of two GPUs each are all that the node has; one of them runs already.
    deploy("--yes")
    done = deploy("--yes", change=[("replicas: 1", "replicas: 2")])
    assert done.code == 0, done.err


def test_an_empty_group_needs_a_place_for_its_first_pod(api: Api, deploy: Deploy) -> None:
    del api.objects["v1", "nodes", "", "gpu-1"]
    empty = [("replicas: 1", "replicas: 0"), ("minReplicas: 1", "minReplicas: 0")]
    [(check, _, _)] = findings(deploy, change=empty)
    assert check == "gpus"


def test_a_secret_without_its_key(api: Api, deploy: Deploy) -> None:
    api.objects[SECRET]["data"] = {"ledger-pasword": "eA=="}
    [(check, sentence, remedy)] = findings(deploy)
    assert (check, sentence) == ("secrets", "secret trivium-secrets has no key ledger-password")
    assert remedy == "add it to the secret; it has: ledger-pasword"


def test_a_missing_secret_comes_with_the_command_that_makes_it(api: Api, deploy: Deploy) -> None:
    del api.objects[SECRET]
    [(_, _, remedy)] = findings(deploy)
    make = "kubectl -n trivium create secret generic trivium-secrets"
    assert remedy == f"{make} --from-literal=ledger-password=…"


def test_secrets_that_come_from_elsewhere_are_not_missed(api: Api, deploy: Deploy) -> None:
    del api.objects[SECRET]
    api.kinds["external-secrets.io/v1"] = {"externalsecrets": ("ExternalSecret", True)}
    made = "kind: ExternalSecret\nmetadata: {name: any}\nspec: {target: {name: trivium-secrets}}"
    text = f"apiVersion: external-secrets.io/v1\n{made}\n---\n#"
    assert findings(deploy, change=[("# What", text)]) == []


def test_an_unknown_storage_class(api: Api, deploy: Deploy) -> None:
    [(check, sentence, remedy)] = findings(deploy, change=[("Name: fast", "Name: faster")])
    assert check == "storage"
    assert (
        sentence == "volume claim trivium-models asks for storage class faster, which is not there"
    )
    assert remedy == "name one that is there: fast"


def test_a_claim_without_class_needs_a_default_one(deploy: Deploy) -> None:
    [(_, sentence, _)] = findings(deploy, change=[("  storageClassName: fast\n", "")])
    assert "the cluster has no default one" in sentence


def test_a_quota_that_is_used_up(api: Api, deploy: Deploy) -> None:
    quota = house.named("v1", "ResourceQuota", "team", "trivium")
    quota["spec"] = {"hard": {"requests.nvidia.com/gpu": "4", "pods": "10"}}
    quota["status"] = {"used": {"requests.nvidia.com/gpu": "3", "pods": "1"}}
    api.put(quota)
    [(check, sentence, _)] = findings(deploy)
    assert check == "quota"
    assert sentence == "quota team leaves 1 requests.nvidia.com/gpu, 2 are asked for"


def test_missing_rights_are_named(api: Api, deploy: Deploy) -> None:
    api.denied = {("patch", "rayservices"), ("get", "services/proxy")}
    assert {sentence for _, sentence, _ in findings(deploy)} == {
        "you may not patch rayservices.ray.io in namespace trivium",
        "you may not get services/proxy in namespace trivium",
    }
    assert api.applied == []


def test_what_may_not_be_looked_at_stops_nothing(api: Api, deploy: Deploy) -> None:
    api.denied = {("list", "nodes")}
    done = deploy("--yes")
    assert done.code == 0, done.err
    assert "cannot be checked: nodes is forbidden" in done.err


def test_no_namespace(api: Api, deploy: Deploy) -> None:
    del api.objects["v1", "namespaces", "", "trivium"]
    [(check, _, remedy)] = findings(deploy)
    assert (check, remedy) == ("namespace", "kubectl create namespace trivium")


def test_nobody_answers(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(kubeconfig("http://127.0.0.1:9"), "utf-8")
    done = run("deploy", "--manifests", str(MANIFESTS), "--yes", "--kubeconfig", str(config))
    assert done.code == 1
    assert "the Kubernetes API at http://127.0.0.1:9 does not answer" in done.err
    assert "--context" in done.err


def test_an_expired_login(deploy: Deploy, config: Path) -> None:
    config.write_text(config.read_text("utf-8").replace("test-token", "old-token"), "utf-8")
    done = deploy("--yes")
    assert done.code == 1
    assert "log in again" in done.err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "m.yaml:1: not valid YAML"),
        ("", "there is nothing in it to deploy"),
        ("kind: Secret", "object 1 has no apiVersion, kind and metadata.name"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: a}", "there is no RayService"),
    ],
)
def test_manifests_that_are_none(
    text: str, sentence: str, trivium: Run, tmp_path: Path, api: Api
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text, "utf-8")
    done = trivium("deploy", "--manifests", str(path), "--yes")
    assert done.code == 2
    assert sentence in done.err
    assert api.applied == []


def test_an_unusable_kubeconfig(run: Run, tmp_path: Path) -> None:
    done = run("deploy", "--kubeconfig", str(tmp_path / "none"), "--manifests", str(MANIFESTS))
    assert done.code == 2
    assert "no cluster to talk to" in done.err
