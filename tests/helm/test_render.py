"""Every profile and every combination renders to what the API servers accept."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from tests.helm.chart import (
    CHART,
    KUBERNETES,
    PROFILES,
    Json,
    Refused,
    command,
    of_profile,
    one,
    pods,
    problems,
    render,
)
from tools.chart_binaries import helm, helm_3

ALL = ("default", *PROFILES)

# Each is laid over a profile. Together they turn every switch of the chart.
CHOICES: dict[str, Json] = {
    "ingress": {
        "ingress": {
            "enabled": True,
            "hosts": ["a.example.com", "b.example.com"],
            "tlsSecret": "tls",
            "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"},
        }
    },
    "route": {
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "public"}],
            "hostnames": ["a.example.com"],
        }
    },
    "watched": {
        "monitoring": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "rules": {"enabled": True},
            "dashboards": {"enabled": True},
            "grafanaHost": "http://grafana",
        }
    },
    "traced": {"tracing": {"collector": {"enabled": True, "exportTo": "http://tempo:4318"}}},
    "open": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
    "jobs": {
        "jobs": {
            "ingest": {"entrypoint": "trivium ingest s3://b/docs"},
            "train": {"entrypoint": "trivium train expert -d a", "gpu": {"count": 1}, "workers": 1},
        },
        "schedules": {"age": {"schedule": "* * * * *", "command": ["true"]}},
        "client": {"apiKeySecret": {"name": "client"}},
    },
    "own": {
        "fullnameOverride": "other",
        "pods": {"labels": {"team": "ml"}, "annotations": {"a": "1"}, "priorityClassName": "high"},
        "head": {"pod": {"priorityClassName": "higher"}},
        "secrets": {"revision": "1"},
        "caBundle": {"configMap": "trust"},
        "proxy": {"https": "http://proxy.net:3128", "noProxy": [".corp.example.com"]},
        "networkPolicy": {"workloadIdentity": "eks"},
        "prices": {"metered": {}},
        "image": {"pullSecrets": [{"name": "registry"}], "tag": "1@sha256:" + "0" * 64},
        "ray": {"extraVolumes": [{"name": "more", "secret": {"secretName": "more"}}]}
        | {"extraVolumeMounts": [{"name": "more", "mountPath": "/etc/more"}], "env": {"A": "b"}}
        | {"queueName": "serving"},
    },
    "claimed": {
        "settings": {"expert": {"model_source": "meta-llama/Llama-3.1-8B-Instruct"}},
        "state": {"claim": {"enabled": True, "existingClaim": "models"}, "preload": True},
        "modelImage": "models:1",
    },
    "old": {"ray": {"autoscaling": False, "tokenAuth": False}, "upgrade": {"strategy": "None"}},
}
PAIRS = [*itertools.combinations(CHOICES, 2)]


def matrix() -> list[tuple[str, tuple[str, ...]]]:
    """Every choice on every profile, and every pair of choices on one of them, in turns."""
    alone = [(profile, (choice,)) for profile in ALL for choice in CHOICES]
    pairs = [(ALL[number % len(ALL)], pair) for number, pair in enumerate(PAIRS)]
    return [*alone, *pairs]


def laid_over(folder: Path, profile: str, choices: tuple[str, ...]) -> list[str]:
    """Helm's arguments for a combination."""
    given = of_profile(profile)
    for choice in choices:
        file = folder / f"{choice}.yaml"
        file.write_text(yaml.safe_dump(CHOICES[choice]), encoding="utf-8")
        given += ["-f", str(file)]
    if profile == "production" and "old" in choices:
        given += ["--set", "upgrade.strategy=NewCluster"]
    return [*given, "--kube-version", "1.35.0"]


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("version", [4, 3])
def test_lint_has_nothing_to_say(profile: str, version: int) -> None:
    program = helm() if version == 4 else helm_3()
    said = command(program, "lint", "--strict", str(CHART), *of_profile(profile))
    assert "1 chart(s) linted, 0 chart(s) failed" in said


@pytest.mark.parametrize("profile", ALL)
def test_helm_3_renders_what_helm_4_does(profile: str) -> None:
    def by(program: Path) -> list[Json]:
        found = render(*of_profile(profile), program=program)
        return sorted(found, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert by(helm_3()) == by(helm())


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("profile", ALL)
def test_api_servers_know_every_field(profile: str, version: str) -> None:
    for manifest in render(*of_profile(profile)):
        assert problems(manifest, version) == [], f"{manifest['kind']} on {version}"


@pytest.mark.parametrize(("profile", "choices"), matrix())
def test_combinations_render_and_validate(
    profile: str, choices: tuple[str, ...], tmp_path: Path
) -> None:
    for manifest in render(*laid_over(tmp_path, profile, choices)):
        assert problems(manifest, "1.35") == [], manifest["kind"]


def test_the_check_sees_unknown_fields() -> None:
    service = yaml.safe_load(yaml.safe_dump(one(render(), "RayService")))
    service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["contaners"] = []
    assert any("contaners" in said for said in problems(service, "1.35"))


@pytest.mark.parametrize("profile", ["gpu", "production"])
def test_an_operator_gets_the_fields_that_it_knows(profile: str) -> None:
    newer = render(*of_profile(profile), "--set-string", "ray.operatorVersion=1.7")
    service = one(newer, "RayService")
    assert problems(service, "1.35", operator="1.7") == []
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    asked = {group["groupName"]: group.get("priority") for group in groups}
    assert asked.get("gpu-spot") == (10 if profile == "production" else None)
    # What 1.6 would refuse is seen as such; that it gets nothing of it, all other tests show.
    refused = problems(service, "1.35", operator="1.6")
    assert bool(refused) == (profile == "production")
    assert all("priority" in said for said in refused)


@pytest.mark.parametrize("path", ["replicas", "workerDefaults.gpus", "scaling.gateway.min"])
def test_unknown_values_are_refused(path: str) -> None:
    with pytest.raises(Refused, match=path.rpartition(".")[2]):
        render("--set", f"{path}=1")


@pytest.mark.parametrize("profile", ["gpu", "production"])
def test_fields_of_the_autoscaler_are_not_declared(profile: str) -> None:
    cluster = one(render(*of_profile(profile)), "RayService")["spec"]["rayClusterConfig"]
    assert cluster["workerGroupSpecs"]
    assert all("replicas" not in group for group in cluster["workerGroupSpecs"])


@pytest.mark.parametrize("profile", ALL)
def test_no_environment_name_comes_twice(profile: str) -> None:
    for manifest in render(*of_profile(profile)):
        for where, pod in pods(manifest):
            for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
                names = [each["name"] for each in container.get("env", [])]
                assert len(names) == len(set(names)), where


def test_streams_outlast_their_requests() -> None:
    given = ["--set", "settings.gateway.request_timeout_s=240", "--set", "ingress.enabled=true"]
    given += ["--set", "ingress.hosts={a.example.com}", "--set", "httpRoute.enabled=true"]
    given += [
        "--set",
        "httpRoute.hostnames={a.example.com}",
        "--set",
        "httpRoute.parentRefs[0].name=g",
    ]
    manifests = render(*given, "--set", "settings.gateway.max_body_bytes=5000000")
    notes = one(manifests, "Ingress")["metadata"]["annotations"]
    nginx = "nginx.ingress.kubernetes.io/"
    assert notes[f"{nginx}proxy-read-timeout"] == "250"
    assert notes[f"{nginx}proxy-body-size"] == "5000000"
    assert notes[f"{nginx}proxy-buffering"] == "off"
    assert one(manifests, "HTTPRoute")["spec"]["rules"][0]["timeouts"]["request"] == "250s"
    for _, pod in pods(one(manifests, "RayService")):
        env = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}
        assert env["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == "240"


def test_routes_go_where_the_traffic_is_split() -> None:
    backend = one(render(*of_profile("production")), "HTTPRoute")["spec"]["rules"][0]
    assert backend["backendRefs"] == [{"name": "trivium-gateway-istio", "port": 80}]
