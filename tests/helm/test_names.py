"""Whatever a release is called, whatever is set to null: manifests that are taken, or a reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.helm.chart import CHART, Json, Refused, command, of_profile, problems, render
from tests.helm.test_render import CHOICES
from tools.chart import Value, read
from tools.chart_binaries import helm

LONG = "team-platform-inference-production-europe"


def rendered(release: str, *arguments: str) -> list[Json]:
    text = command(helm(), "template", release, str(CHART), *arguments)
    return [each for each in yaml.safe_load_all(text) if each]


def everything(folder: Path) -> list[str]:
    """Arguments that turn on every kind of manifest."""
    given = of_profile("production")
    for choice in ("ingress", "watched", "jobs", "claimed"):
        file = folder / f"{choice}.yaml"
        file.write_text(yaml.safe_dump(CHOICES[choice]), encoding="utf-8")
        given += ["-f", str(file)]
    return [*given, "--kube-version", "1.35.0"]


def names(manifests: list[Json]) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in manifests}


@pytest.mark.parametrize("release", ["2024", "true", "null", "1e3", "2024-05-01", "no", "a.b"])
def test_release_that_yaml_reads_as_something_else_is_installed(
    tmp_path: Path, release: str
) -> None:
    for manifest in rendered(release, *everything(tmp_path), "--namespace", "1e3"):
        assert problems(manifest, "1.35") == [], manifest["kind"]
        name = manifest["metadata"]["name"]
        assert isinstance(name, str)
        if manifest["kind"] in ("Service", "RayService", "RayJob", "StatefulSet"):
            assert name[0].isalpha(), name  # DNS-1035
            assert "." not in name, name


@pytest.mark.parametrize(
    "key",
    [
        "secrets.existingSecret",
        "secrets.env.OPENAI_API_KEY",
        "secrets.externalSecret.remoteKey",
        "ingress.tlsSecret",
        "ingress.className",
        "state.claim.storageClass",
        "state.claim.existingClaim",
        "client.apiKeySecret.name",
        "client.apiKeySecret.key",
        "faultTolerance.passwordSecret.name",
        "image.tag",
        "ray.version",
        "serviceAccount.annotations.role",
        "monitoring.podMonitor.labels.release",
    ],
)
@pytest.mark.parametrize("text", ["1e3", "true"])
def test_text_that_yaml_reads_as_something_else_stays_text(
    tmp_path: Path, key: str, text: str
) -> None:
    given = [*everything(tmp_path), "--set-string", f"{key}={text}"]
    for manifest in rendered("trivium", *given):
        assert problems(manifest, "1.35") == [], manifest["kind"]


def test_long_releases_that_differ_at_the_end_have_no_name_in_common(tmp_path: Path) -> None:
    given = everything(tmp_path)
    north, south = (names(rendered(f"{LONG}-{end}", *given)) for end in ("north", "south"))
    assert north & south == {("ExternalSecret", "trivium")}  # its name is a value
    assert len(north) == len(south)


@pytest.mark.parametrize("one", ["a.b", "x" * 41])
def test_names_are_distinct_from_what_they_are_cut_to(one: str) -> None:
    assert not names(rendered(one)) & names(rendered(one.replace(".", "-")[:40]))


def test_names_keep_to_the_lengths_that_kubernetes_and_kuberay_take(tmp_path: Path) -> None:
    most = {"RayService": 47, "RayJob": 47, "CronJob": 52, "Service": 63}  # others: 253
    long = "jobs:\n  " + "j" * 40 + ": {entrypoint: trivium ingest}\n"
    long += "schedules:\n  " + "s" * 40 + ': {schedule: "* * * * *", command: [a]}\n'
    (tmp_path / "long.yaml").write_text(long, encoding="utf-8")
    found = rendered(f"{LONG}-north", *everything(tmp_path), "-f", str(tmp_path / "long.yaml"))
    for manifest in found:
        assert len(manifest["metadata"]["name"]) <= most.get(manifest["kind"], 253)
        for value in manifest["metadata"].get("labels", {}).values():
            assert len(value) <= 63


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("fullnameOverride=My_LLM.v2", "fullnameOverride (My_LLM.v2) is no name: at most 40"),
        ("fullnameOverride=2024", "fullnameOverride (2024)"),
        (f"fullnameOverride={'a' * 41}", "fullnameOverride"),
        ("fullnameOverride=a-", "fullnameOverride (a-)"),
        ("secrets.existingSecret=My_Keys", "secrets.existingSecret (My_Keys) is no name"),
        ("ingress.tlsSecret=TLS", "ingress.tlsSecret (TLS)"),
        ("state.claim.existingClaim=a b", "state.claim.existingClaim (a b)"),
        ("workers.GPU_A.maxReplicas=1", "workers.GPU_A: the name"),
        ("jobs.My_Job.entrypoint=a", "jobs.My_Job: the name"),
    ],
)
def test_name_that_the_api_server_refuses_is_refused_before(value: str, told: str) -> None:
    with pytest.raises(Refused) as refused:
        render("--set-json" if value.startswith("workers") else "--set-string", value)
    assert told in str(refused.value)


def sections(value: Value) -> list[str]:
    """Paths of all values with a default; below `settings` and the like any key is free."""
    free = value.bounds.get("free") or value.bounds.get("strings")
    inside = [] if free or value.path == "settings" else value.children
    own = [value.path] if value.path and value.default not in ([], {}) else []
    return [*own, *(path for child in inside for path in sections(child))]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_value_that_is_set_to_null_is_refused_by_name(depth: int) -> None:
    everything = sections(read((CHART / "values.yaml").read_text(encoding="utf-8")))
    paths = {path for path in everything if path.count(".") == depth}
    with pytest.raises(Refused) as refused:
        render("--set", ",".join(f"{path}=null" for path in sorted(paths)))
    told = set()
    for where, missing in re.findall(
        r"at '(.*)': missing propert(?:y|ies) (.*)", str(refused.value)
    ):
        section = where.strip("/").replace("/", ".")
        told |= {f"{section}.{key}".lstrip(".") for key in re.findall(r"'(\w+)'", missing)}
    assert told == paths
    assert paths


@pytest.mark.parametrize("path", ["ray.env", "workers", "head.tolerations", "head.nodeSelector"])
def test_null_of_what_is_empty_anyway_stays_empty(path: str) -> None:
    assert render("--set", f"{path}=null") == render()
