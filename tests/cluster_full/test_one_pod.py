"""The kind profile, from an empty namespace to three roads, and back to an empty one."""

from __future__ import annotations

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
