"""What runs may do no more than it must, and no manifest holds a secret."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from serve_app.cli.local import RAY_ENVIRONMENT
from tests.helm.chart import PROFILES, ROOT, Json, of_profile, one, pods, render
from tests.helm.security import breaches
from tools.chart_binaries import checkov

EVERYTHING = [
    *("--set", "milvus.uri=", "--set", "milvus.standalone.enabled=true"),
    *("--set", "jobs.train.entrypoint=trivium train expert", "--set", "jobs.train.gpu.count=1"),
    *("--set", "ingress.enabled=true", "--set", "ingress.hosts={a.example.com}"),
    *("--set", "ingress.tlsSecret=tls"),
]


def everything() -> tuple[Json, ...]:
    """Production with what it leaves out."""
    return render(*of_profile("production"), *EVERYTHING)


def explained() -> dict[str, str]:
    """Checks of checkov that the chart does not pass, each with its reason."""
    file = Path(__file__).parent / "checkov.yaml"
    found: dict[str, str] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("profile", [*PROFILES, "default"])
def test_every_pod_keeps_the_restricted_standard(profile: str) -> None:
    checked = 0
    for manifest in (*render(*of_profile(profile)), *everything()):
        for where, pod in pods(manifest):
            assert list(breaches(pod)) == [], where
            checked += 1
    assert checked >= 9  # head, three groups, job, milvus, collector, schedules, test


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}, "volume host"),
        ({"securityContext": {"runAsUser": 0}}, "root"),
    ],
)
def test_the_standards_check_can_fail(change: Json, said: str) -> None:
    spec = {"containers": [{"name": "a"}], **change}
    assert any(said in each for each in breaches({"spec": spec}))
    assert any("capabilities are not dropped" in each for each in breaches({"spec": spec}))


def test_the_autoscaler_is_restricted_too() -> None:
    options = one(everything(), "RayService")["spec"]["rayClusterConfig"]["autoscalerOptions"]
    sidecar = {"name": "autoscaler", "securityContext": options["securityContext"]}
    assert list(breaches({"spec": {"containers": [sidecar]}})) == []


def test_only_the_head_and_the_price_finder_may_ask_the_kubernetes_api() -> None:
    for manifest in everything():
        for where, pod in pods(manifest):
            token = pod["spec"].get("automountServiceAccountToken")
            head = "RayService" in where and "headGroupSpec" in where
            prices = where.startswith("CronJob/trivium-prices.")
            assert token is (head or prices), where


def test_the_price_finder_may_read_and_write_one_config_map() -> None:
    rules = {m["kind"]: m["rules"] for m in everything() if m["kind"] in ("Role", "ClusterRole")}
    assert rules["ClusterRole"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
    for rule in rules["Role"]:
        if set(rule["verbs"]) - {"get", "list"}:
            assert rule["resources"] == ["configmaps"]
            assert rule["resourceNames"] == ["trivium-machines"]
    # What the CronJob writes is not the chart's to declare: an upgrade would take it back.
    assert "data" not in one(everything(), "ConfigMap", "trivium-machines")


def test_no_manifest_holds_a_secret() -> None:
    kinds = {each["kind"] for each in everything()}
    assert "Secret" not in kinds
    words = ("_PASSWORD", "_TOKEN", "_API_KEY", "_SECRET")
    for manifest in everything():
        for where, pod in pods(manifest):
            for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
                for each in container.get("env", []):
                    if each["name"].endswith(words):
                        assert set(each) == {"name", "valueFrom"}, f"{where}: {each['name']}"


def test_every_ray_pod_gets_the_secrets_that_building_needs() -> None:
    wanted = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "TRIVIUM_LEDGER__PASSWORD"}
    cluster = one(everything(), "RayService")
    found = [pod for _, pod in pods(cluster)]
    assert len(found) == 4
    for pod in found:
        assert "initContainers" not in pod["spec"]
        for container in pod["spec"]["containers"]:
            assert wanted <= {each["name"] for each in container["env"]}


def test_what_needs_no_secrets_gets_none() -> None:
    for manifest in everything():
        name = manifest["metadata"]["name"]
        if name in ("trivium-prices", "trivium-index-age", "trivium-test-roads"):
            for where, pod in pods(manifest):
                given = {each["name"] for each in pod["spec"]["containers"][0]["env"]}
                assert "OPENAI_API_KEY" not in given, where
    canary = [pod for _, pod in pods(one(everything(), "CronJob", "trivium-canary"))]
    given = {each["name"] for each in canary[0]["spec"]["containers"][0]["env"]}
    assert "OPENAI_API_KEY" in given


def test_ray_runs_as_it_does_on_one_machine() -> None:
    # The operator sets the first; on one machine the second keeps the terminal quiet; the third is
    # for who starts Ray beside an open store, which on a cluster nobody does.
    ours = {"RAY_AUTH_MODE", "RAY_SERVE_LOG_TO_STDERR", "GRPC_ENABLE_FORK_SUPPORT"}
    (head, *_) = (pod for _, pod in pods(one(everything(), "RayService")))
    given = {e["name"]: e.get("value") for e in head["spec"]["containers"][0]["env"]}
    for name, value in RAY_ENVIRONMENT.items():
        assert name in ours or given[name] == value, name


def test_everything_is_denied_but_what_is_named() -> None:
    policies = [each for each in everything() if each["kind"] == "NetworkPolicy"]
    deny = next(each for each in policies if each["metadata"]["name"] == "trivium-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    ray = next(each for each in policies if each["metadata"]["name"] == "trivium-ray")["spec"]
    ports = {p["port"] for rule in ray["egress"] for p in rule.get("ports", [])}
    assert ports == {53, 5432, 6379, 9090, 80, 443}
    client = next(each for each in policies if each["metadata"]["name"] == "trivium-client")["spec"]
    assert {p["port"] for rule in client["egress"] for p in rule.get("ports", [])} == {53, 443}
    # Everybody's pods are under the denial.
    labels = deny["podSelector"]["matchLabels"].items()
    for manifest in everything():
        for where, pod in pods(manifest):
            assert labels <= pod["metadata"]["labels"].items(), where


def test_checkov_finds_only_what_is_explained(tmp_path: Path) -> None:
    # It does not look into custom resources: their pods are laid before it as pods.
    found = list(everything())
    for manifest in everything():
        if manifest["apiVersion"] == "ray.io/v1":
            for number, (_, pod) in enumerate(pods(manifest)):
                meta = {**pod["metadata"], "name": f"{manifest['kind'].lower()}-{number}"}
                found.append({**pod, "apiVersion": "v1", "kind": "Pod", "metadata": meta})
    placed = [{**m, "metadata": {**m["metadata"], "namespace": "trivium"}} for m in found]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(placed), encoding="utf-8")
    (tmp_path / "Dockerfile").write_bytes((ROOT / "Dockerfile").read_bytes())
    command = [str(checkov()), "-d", str(tmp_path), "--framework", "kubernetes", "dockerfile"]
    command += ["-o", "json", "--quiet", "--compact"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    reports = {each["check_type"]: each for each in json.loads(done.stdout)}
    assert reports["dockerfile"]["results"]["failed_checks"] == []
    failed = reports["kubernetes"]["results"]["failed_checks"]
    # An explanation of what no longer fails is as wrong as a failure without one.
    assert {each["check_id"] for each in failed} == explained().keys()
    assert reports["kubernetes"]["summary"]["passed"] > 500
