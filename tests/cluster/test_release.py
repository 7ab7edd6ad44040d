"""`trivium k8s install`, `upgrade` and `rollback`: Helm's releases, KubeRay's own word on them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Outcome, Run
from tests.cluster.machine import Head, Kubelet
from tests.cluster.plane import Plane
from tests.helm.chart import CHART, of_profile
from tools.chart_binaries import helm, helm_3

Release = Callable[..., Outcome]
SPACE = "live"


@pytest.fixture
def release(trivium: Run, plane: Plane, head: Head, kubelet: Kubelet) -> Iterator[Release]:
    """`trivium k8s COMMAND` on a release of the smallest profile, which is gone afterwards."""

    def call(command: str, *arguments: str) -> Outcome:
        chart = ["--chart", str(CHART), *of_profile("kind")]
        given = chart if command in ("install", "upgrade", "preflight") else []
        return trivium("k8s", command, "--namespace", SPACE, *given, *arguments)

    yield call
    head.refuses.clear()
    head.waiting_for.clear()
    kubelet.broken.clear()
    by_helm(plane, "uninstall", "trivium", "--ignore-not-found", "--cascade=foreground", "--wait")


def by_helm(plane: Plane, *arguments: str) -> str:
    """What Helm itself says."""
    where = ["--namespace", SPACE, "--kubeconfig", str(plane.kubeconfig())]
    done = subprocess.run(
        [str(helm()), *arguments, *where], capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def history(plane: Plane) -> list[tuple[int, str]]:
    told = json.loads(by_helm(plane, "history", "trivium", "--output=json"))
    return [(each["revision"], each["status"]) for each in told]


def service(plane: Plane) -> Any:
    return json.loads(plane.kubectl("-n", SPACE, "get", "rayservice", "trivium", "-o", "json"))


@pytest.mark.parametrize("program", [helm, helm_3])
def test_a_release_is_helms_alone(
    program: Callable[[], Path], release: Release, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{program().parent}{os.pathsep}{os.environ['PATH']}")
    looked = release("install", "--dry-run")
    assert looked.code == 0, looked.err
    assert "create RayService/trivium" in looked.out
    assert "nothing was applied" in looked.out
    assert by_helm(plane, "list", "-q") == ""

    done = release("install", "--yes", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["state"], told["revision"]) == ("deployed", 1)
    assert {each["level"] for each in told["preflight"]} == {"ok"}
    assert release("status").code == 0

    changed = ["--set", "settings.gateway.keep_alive_s=7"]
    done = release("upgrade", "--yes", *changed)
    assert done.code == 0, done.err
    assert "change RayService/trivium" in done.out
    assert "keep_alive_s: 7" in done.out
    assert "revision 2 serves: every road answers" in done.out

    # Either manager goes on where the other left off.
    by_helm(plane, "rollback", "trivium", "1")
    done = release("rollback", "2", "--yes")
    assert done.code == 0, done.err
    assert [number for number, _ in history(plane)] == [1, 2, 3, 4]
    assert "keep_alive_s: 7" in service(plane)["spec"]["serveConfigV2"]
    by_helm(plane, "upgrade", "trivium", str(CHART), *of_profile("kind"))
    missing = release("rollback", "9", "--yes")
    assert missing.code == 2
    assert "has no revision 9; it has: 1 (superseded), 2 (superseded)" in missing.err


def test_a_wrong_setting_is_refused_before_anything_is_applied(
    release: Release, plane: Plane
) -> None:
    wrong = ["--set", "settings.router.timeot_s=1"]
    done = release("install", "--yes", *wrong)
    assert done.code != 0
    assert "timeot_s" in done.err
    assert by_helm(plane, "list", "-q") == ""


def test_an_application_that_cannot_be_built_is_not_ready_and_is_taken_back(
    release: Release, plane: Plane, head: Head
) -> None:
    assert release("install", "--yes").code == 0
    [app] = [e["name"] for e in head.config["applications"] if e.get("route_prefix") == "/"]
    why = "Traceback …\nserve_app.errors.SettingsError: no price for model 'x'"
    head.refuses = {'"keep_alive_s": 8': why}
    change = ["--set", "settings.gateway.keep_alive_s=8"]
    done = release("upgrade", "--yes", "--rollback-on-failure", *change)
    assert done.code == 1
    assert f"application {app}: DEPLOY_FAILED" in done.err
    assert "no price for model 'x'" in done.err
    assert "went back to revision 1" in done.err
    assert release("status").code == 0

    # Without that what ran goes on, Kubernetes calls it ready; whoever asks is told otherwise.
    assert release("upgrade", "--yes", *change).code == 1
    conditions = {e["type"]: e["status"] for e in service(plane)["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    status = release("status")
    assert status.code == 1
    assert "trivium is DEPLOY_FAILED" in status.out
    told = json.loads(release("status", "--json").out)
    assert told["state"] == "DEPLOY_FAILED"
    [shown] = [each for each in told["applications"] if each["name"] == app]
    assert {each["status"] for each in shown["deployments"]} == {"replaced"}
    assert {each["requests"] for each in shown["deployments"]} == {7.0}
    assert release("rollback", "--yes").code == 0
    assert release("status").code == 0


def test_a_pod_that_cannot_start_stops_helm_at_once(
    release: Release, plane: Plane, kubelet: Kubelet
) -> None:
    message = 'Back-off pulling image "trivium:none": not found'
    kubelet.broken = {
        "trivium:none": {"waiting": {"reason": "ImagePullBackOff", "message": message}}
    }
    done = release("install", "--yes", "--set", "image.tag=none")
    assert done.code == 1
    assert "ImagePullBackOff" in done.err
    assert "check the image's name and tag" in done.err
    # Helm holds no lock any more. What it calls the revision depends on who was first: without a
    # status of KubeRay's, Helm takes a RayService for ready.
    [(number, state)] = history(plane)
    assert number == 1
    assert state in {"failed", "deployed"}


def test_what_may_still_come_is_waited_for_until_time_is_up(
    release: Release, plane: Plane, head: Head
) -> None:
    head.waiting_for = ["knowledge"]
    done = release("install", "--yes", "--timeout", "10")
    assert done.code == 1
    assert "roads are asked, waiting for knowledge" in done.err
    done = release("install", "--yes", "--no-ask")
    assert done.code == 0, done.err
    assert "its applications run" in done.out


def test_nobody_is_surprised(release: Release, plane: Plane) -> None:
    done = release("install")
    assert done.code == 2
    assert "pass --yes" in done.err
    done = release("upgrade", "--yes")
    assert done.code == 2
    assert "no release trivium in namespace live to upgrade: use trivium k8s install" in done.err
    done = release("rollback", "--yes")
    assert done.code == 2
    assert "no earlier revision to go back to" in done.err
    assert by_helm(plane, "list", "-q") == ""
