"""What a platform says of its pods reaches all of them: classes, labels, certificates, proxies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.helm.chart import Json, of_profile, one, pods, render

GIVEN: Json = {
    "pods": {
        "labels": {"azure.workload.identity/use": "true"},
        "annotations": {"example.com/owner": "ml"},
        "priorityClassName": "serving",
    },
    "workers": {"gpu": {"pod": {"runtimeClassName": "nvidia", "priorityClassName": "gpu"}}},
    "ray": {"queueName": "services"},
    "jobs": {
        "train": {
            "entrypoint": "trivium train expert",
            "queueName": "batch",
            "gpu": {"count": 1},
            "workers": 2,
        }
    },
    "caBundle": {"configMap": "trust", "key": "bundle.pem"},
    "proxy": {"http": "http://proxy.net:3128", "https": "http://proxy.net:3128"},
    "secrets": {"revision": "1"},
    "milvus": {"uri": "http://milvus.data:19530"},
    "state": {"claim": {"existingClaim": "models"}, "preload": True},
}
SIDE = ("StatefulSet", "Deployment")  # Milvus and the collector, which are others' programs


def given(folder: Path, *more: str) -> tuple[Json, ...]:
    file = folder / "given.yaml"
    file.write_text(yaml.safe_dump(GIVEN), encoding="utf-8")
    return render(*of_profile("production"), "-f", str(file), *more)


def ours(manifests: tuple[Json, ...]) -> list[tuple[str, Json]]:
    """Every pod of Trivium's own."""
    return [found for each in manifests if each["kind"] not in SIDE for found in pods(each)]


def test_every_pod_has_what_all_pods_have(tmp_path: Path) -> None:
    found = ours(given(tmp_path))
    assert len(found) >= 10  # head, three groups, job, schedules, weights, test
    for where, pod in found:
        meta, spec = pod["metadata"], pod["spec"]
        assert meta["labels"]["azure.workload.identity/use"] == "true", where
        assert meta["labels"]["app.kubernetes.io/instance"] == "trivium", where
        assert meta["annotations"]["example.com/owner"] == "ml", where
        gpu = "[1]" in where and "workerGroupSpecs" in where
        assert spec["priorityClassName"] == ("gpu" if gpu else "serving"), where
        assert spec.get("runtimeClassName") == ("nvidia" if gpu else None), where


def test_certificates_and_proxies_reach_every_container(tmp_path: Path) -> None:
    for where, pod in ours(given(tmp_path)):
        volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
        (item,) = volumes["ca"]["configMap"]["items"]
        for each in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])):
            env = {e["name"]: e.get("value") for e in each["env"]}
            (mount,) = (m["mountPath"] for m in each["volumeMounts"] if m["name"] == "ca")
            assert env["SSL_CERT_FILE"] == env["REQUESTS_CA_BUNDLE"] == f"{mount}/{item['path']}"
            assert env["HTTPS_PROXY"] == "http://proxy.net:3128", where
            # gRPC reads the small letters, and Ray's pods speak it among themselves.
            assert not {"http_proxy", "https_proxy"} & env.keys()
            near = str(env["NO_PROXY"]).split(",")
            assert {".svc", "10.0.0.0/8", "milvus.data", "postgres.databases"} <= {*near}
            assert "trivium-collector" in near
    for name in ("trivium-ray", "trivium-client"):
        rules = one(given(tmp_path), "NetworkPolicy", name)["spec"]["egress"]
        assert {"port": 3128, "protocol": "TCP"} in [p for r in rules for p in r.get("ports", [])]


def test_a_schedule_with_the_secrets_reaches_the_stores_and_others_do_not() -> None:
    sync = {"schedule": "*/15 * * * *", "command": ["trivium", "sync"]}
    values = {"sync": {**sync, "withSecrets": True}, "age": sync}
    manifests = render(*of_profile("production"), "--set-json", f"schedules={json.dumps(values)}")
    policies = [each for each in manifests if each["kind"] == "NetworkPolicy"]

    def reached(job: str) -> set[int]:
        template = one(manifests, "CronJob", f"trivium-{job}")["spec"]["jobTemplate"]["spec"]
        labels = template["template"]["metadata"]["labels"].items()
        chosen = [p for p in policies if "Egress" in p["spec"]["policyTypes"]]
        return {
            port["port"]
            for policy in chosen
            if "matchExpressions" not in policy["spec"]["podSelector"]
            if policy["spec"]["podSelector"]["matchLabels"].items() <= labels
            for rule in policy["spec"].get("egress", ())
            for port in rule.get("ports", ())
        }

    assert reached("sync") - reached("age") >= {5432, 19530}


def test_proxy_with_a_password_comes_from_the_secret_and_still_spares_what_is_near() -> None:
    manifests = render("--set", "secrets.existingSecret=s,secrets.env.HTTPS_PROXY=proxy")
    (head, *_) = (pod for _, pod in pods(one(manifests, "RayService")))
    env = {each["name"]: each for each in head["spec"]["containers"][0]["env"]}
    assert env["HTTPS_PROXY"]["valueFrom"]["secretKeyRef"] == {"name": "s", "key": "proxy"}
    assert ".svc" in env["NO_PROXY"]["value"]


def test_pods_are_replaced_when_the_secrets_revision_changes(tmp_path: Path) -> None:
    def mark(*more: str) -> Json:
        (head, *_) = (pod for _, pod in pods(one(given(tmp_path, *more), "RayService")))
        found: Json = head["metadata"]["annotations"]
        return found

    assert mark() == mark("--set", "ray.idleTimeoutSeconds=7")
    assert mark() != mark("--set-string", "secrets.revision=2")


def test_kueue_finds_its_queues(tmp_path: Path) -> None:
    manifests = given(tmp_path)
    label = "kueue.x-k8s.io/queue-name"
    job = next(each for each in manifests if each["kind"] == "RayJob")
    assert one(manifests, "RayService")["metadata"]["labels"][label] == "services"
    assert job["metadata"]["labels"][label] == "batch"


def test_a_training_has_as_many_pods_as_it_asks_for_each_with_its_gpu(tmp_path: Path) -> None:
    job = next(each for each in given(tmp_path) if each["kind"] == "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert [group[name] for name in ("replicas", "minReplicas", "maxReplicas")] == [2, 2, 2]
    first, more = (
        each["template"]["spec"]["containers"][0] for each in (cluster["headGroupSpec"], group)
    )
    for container in (first, more):
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        # Whoever trains writes checkpoints to the bucket.
        secret = {e["name"] for e in container["env"] if "secretKeyRef" in e.get("valueFrom", {})}
        assert "HF_TOKEN" in secret
    assert first["image"] == more["image"]


def test_weights_are_fetched_into_the_claim_that_pods_read(tmp_path: Path) -> None:
    manifests = given(tmp_path)
    job = one(manifests, "Job", "trivium-weights")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    ((_, pod),) = pods(job)
    (container,) = pod["spec"]["containers"]
    assert container["command"][:3] == ["hf", "download", "meta-llama/Llama-3.1-8B-Instruct"]
    (worker, *_) = (pod for _, pod in pods(one(manifests, "RayService")))

    def hub(pod: Json) -> list[object]:
        container = pod["spec"]["containers"][0]
        home = next(e["value"] for e in container["env"] if e["name"] == "HF_HOME")
        mount = next(m for m in container["volumeMounts"] if m["name"] == "state")
        claim = next(v for v in pod["spec"]["volumes"] if v["name"] == "state")
        return [home, mount["mountPath"], claim["persistentVolumeClaim"]]

    assert hub(pod) == hub(worker)
    # A hook comes before everything else of the release.
    assert "serviceAccountName" not in pod["spec"]
    assert {each["name"] for each in pod["spec"]["volumes"]} == {"tmp", "state", "ca"}


@pytest.mark.parametrize(
    ("setting", "places"),
    [
        (
            r"serviceAccount.annotations.iam\.gke\.io/gcp-service-account=a@b.iam",
            {"169.254.169.252/32": [987, 988], "169.254.169.254/32": [80, 8080]},
        ),
        ("networkPolicy.workloadIdentity=eks", {"169.254.170.23/32": [80]}),
        (r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn=arn:aws:iam::1:role/a", {}),
    ],
)
def test_pods_reach_their_nodes_identity_where_the_account_asks_for_it(
    setting: str, places: dict[str, list[int]]
) -> None:
    manifests = render(*of_profile("gpu"), "--set", setting)
    for name in ("trivium-ray", "trivium-client"):
        found = {
            to["ipBlock"]["cidr"]: [port["port"] for port in rule["ports"]]
            for rule in one(manifests, "NetworkPolicy", name)["spec"]["egress"]
            for to in rule.get("to", [])
            if to.get("ipBlock", {}).get("cidr", "").startswith("169.")
        }
        assert found == places
