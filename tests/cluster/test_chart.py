"""The real chart, rendered by the real helm, put on the cluster of the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, Run
from tests.cluster import house
from tests.cluster.api import Api
from tests.conftest import ROOT
from tools import chart_binaries

CHART = ROOT / "helm" / "trivium"


@pytest.fixture
def chart(trivium: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`trivium deploy` of the chart with the values of a profile."""
    helm = chart_binaries.helm().parent
    monkeypatch.setenv("PATH", f"{helm}{os.pathsep}{os.environ['PATH']}")

    def call(profile: str, *arguments: str) -> Outcome:
        values = str(CHART / f"values-{profile}.yaml")
        return trivium("deploy", "--chart", str(CHART), "-f", values, "--yes", *arguments)

    return call


def test_the_smallest_profile_installs_and_needs_nothing_twice(api: Api, chart: Run) -> None:
    done = chart("kind")
    assert done.code == 0, done.err
    assert api.get("RayService", "trivium") is not None
    again = chart("kind")
    assert "nothing to change" in again.out


def test_the_gpu_profile_says_what_the_cluster_lacks(api: Api, chart: Run) -> None:
    done = chart("gpu")
    assert done.code == 1
    assert "there is no secret trivium" in done.err
    assert "--from-literal=hf-token=… --from-literal=postgres-password=…" in done.err
    assert "match node selector and tolerations to your GPU nodes: gpu-1" in done.err
    assert api.applied == []


def test_the_gpu_profile_serves_once_it_has_them(
    api: Api, chart: Run, trivium: Run, prices: Path
) -> None:
    labels = api.objects["v1", "nodes", "", "gpu-1"]["metadata"]["labels"]
    labels["nvidia.com/gpu.present"] = "true"
    secret = house.named("v1", "Secret", "trivium", "trivium")
    api.put({**secret, "data": {"hf-token": "eA==", "postgres-password": "eA=="}})
    storage = api.objects["storage.k8s.io/v1", "storageclasses", "", "fast"]
    key = "storageclass.kubernetes.io/is-default-class"
    storage["metadata"]["annotations"] = {key: "true"}
    done = chart("gpu")
    assert done.code == 0, done.err
    status = trivium("status", "--prices", str(prices))
    assert status.code == 0, status.err
    assert "2 NVIDIA-A10G" in status.out


def test_values_that_contradict_are_refused_in_the_charts_words(api: Api, chart: Run) -> None:
    done = chart("kind", "--set", "upgrade.strategy=Never")
    assert done.code == 2
    assert "upgrade" in done.err
    assert "strategy" in done.err
    assert api.applied == []


def test_without_helm_the_way_out_is_named(
    trivium: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = trivium("deploy", "--yes")
    assert done.code == 2
    assert "helm is not on PATH" in done.err
    assert "--manifests" in done.err
