"""The kind profile, from an empty namespace to three roads, and back to an empty one."""

from __future__ import annotations

import json

import pytest

from tests.cluster_full.clients import streaming
from tests.cluster_full.release import Release, awaited

pytestmark = pytest.mark.timeout(900)


def test_every_road_answers_by_itself(kind: Release) -> None:
    said = kind.test()
    assert "expert: answered" in said
    assert "knowledge: answered" in said
    assert "frontier: has no key" in said
    names = [pod["metadata"]["name"] for pod in kind.listed("pods")]
    assert not any("test" in name for name in names)


def test_the_commands_tell_change_and_take_back(kind: Release) -> None:
    assert json.loads(kind.command("status", "--json"))["state"] == "ready"
    before = kind.replicas()
    changed = ("--set", "settings.gateway.keep_alive_s=7")
    said = kind.command("upgrade", *kind.values, *changed, "--yes")
    assert "keep_alive_s: 7" in said
    assert "revision 2 serves: every road answers" in said
    kind.command("rollback", "--yes")
    history = json.loads(kind.helm("history", "trivium", "-o", "json"))
    assert [each["revision"] for each in history] == [1, 2, 3]
    assert "keep_alive_s: 7" not in kind.service["spec"]["serveConfigV2"]
    assert kind.replicas() == before
    assert json.loads(kind.command("status", "--json"))["state"] == "ready"


def test_a_pod_has_nothing_to_do_before_it_starts(kind: Release) -> None:
    (head,) = kind.pods("head")
    (pod,) = (each for each in kind.listed("pods") if each["metadata"]["name"] == head)
    assert "initContainers" not in pod["spec"]


@pytest.mark.parametrize("haproxy", ["1", "0"])
def test_a_pod_that_is_deleted_finishes_its_streams(kind: Release, haproxy: str) -> None:
    """It is the only one: who comes later finds nobody, who was there is answered."""
    kind.apply("--set-string", f"ray.env.RAY_SERVE_ENABLE_HA_PROXY={haproxy}")
    kind.wait_ready()
    (head,) = kind.pods("head")
    with streaming(kind.url, clients=8, roads=("expert",)) as heard:
        awaited("answers", lambda: heard.whole >= 8, 120)
        kind.kubectl("delete", "pod", head, "--wait=false")
    assert not [each for each in heard.lost if "cut" in each]
    kind.wait_ready()
