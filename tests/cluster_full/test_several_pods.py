"""What changes, dies or goes away under clients that never stop asking."""

from __future__ import annotations

import json
import time
from functools import partial

import pytest

from tests.cluster_full.clients import Heard, streaming
from tests.cluster_full.release import Namespace, Refused, Release, awaited

pytestmark = pytest.mark.timeout(1500)
ENOUGH = 12  # answers, before and after something happens


def go_on(heard: Heard, answers: int = ENOUGH, timeout_s: float = 180) -> None:
    """Return when so many more have been answered."""
    before = heard.whole
    awaited(f"{answers} more answers", lambda: heard.whole >= before + answers, timeout_s)


def test_every_road_answers_by_itself(several: Release) -> None:
    said = several.test()
    assert "expert: answered" in said
    assert "knowledge: answered" in said


def test_a_worker_that_is_deleted_loses_no_request(several: Release) -> None:
    for victim in several.pods("worker"):
        with streaming(several.url) as heard:
            go_on(heard)
            several.kubectl("delete", "pod", victim, "--wait=false")
            awaited("the pod's end", partial(_is_gone, several, victim), 300)
            go_on(heard)
        assert heard.lost == []
        awaited("another pod", lambda: len(several.pods("worker")) >= 2, 120)


def test_the_head_may_go_while_redis_keeps_its_state(several: Release) -> None:
    (head,) = several.pods("head")
    with streaming(several.url) as heard:
        go_on(heard)
        several.kubectl("delete", "pod", head, "--wait=false")
        awaited("another head", lambda: several.pods("head") not in ([], [head]), 300)
        go_on(heard, 30)
    assert heard.lost == []
    several.wait_ready()


def test_without_milvus_only_its_road_says_so(several: Release, stores: Namespace) -> None:
    with streaming(several.url) as heard:
        go_on(heard)
        stores.kubectl("scale", "deployment/milvus", "--replicas=0")
        try:
            awaited("a road that says so", lambda: heard.without["knowledge"] > 2, 180)
            with pytest.raises(Refused, match=r"knowledge: (does not answer by itself|HTTP 503)"):
                several.test()
        finally:
            stores.kubectl("scale", "deployment/milvus", "--replicas=1")
        stores.kubectl("rollout", "status", "deployment/milvus", "--timeout=180s", timeout_s=200)
        go_on(heard)
    assert heard.lost == []
    assert heard.without["expert"] == 0
    # The failed test's pod is gone.
    names = [pod["metadata"]["name"] for pod in several.listed("pods")]
    assert not any("test" in name for name in names)
    assert "knowledge: answered" in several.test()


def test_redis_may_be_away_for_a_minute(several: Release, stores: Namespace) -> None:
    with streaming(several.url) as heard:
        go_on(heard)
        stores.kubectl("scale", "statefulset/redis", "--replicas=0")
        try:
            gone = time.monotonic()
            awaited("a minute", lambda: time.monotonic() > gone + 60, 90)
        finally:
            stores.kubectl("scale", "statefulset/redis", "--replicas=1")
        stores.kubectl("rollout", "status", "statefulset/redis", "--timeout=120s")
        go_on(heard, 30)
    assert heard.lost == []


def test_a_wrong_setting_leaves_what_answers_and_is_rolled_back(several: Release) -> None:
    with streaming(several.url) as heard:
        go_on(heard)
        several.apply("--set", "settings.expert.model=without-a-price")
        awaited("its refusal", lambda: "DEPLOY_FAILED" in str(several.states()), 180)
        assert "without-a-price" in str(several.states())
        go_on(heard)
        several.helm("rollback", "trivium")
        awaited("what was there before", lambda: set(several.states().values()) == {"RUNNING"}, 180)
        go_on(heard)
    assert heard.lost == []


def test_an_image_that_changes_switches_clusters(several: Release) -> None:
    """It is the same image under a name of its own."""
    old = several.cluster
    with streaming(several.url) as heard:
        go_on(heard)
        several.apply("--set", "image.tag=cpu-next")
        awaited("another cluster", lambda: several.cluster not in ("", old), 600)
        awaited("the old one's end", lambda: len(several.listed("rayclusters")) == 1, 400)
        go_on(heard)
    assert heard.lost == []


def test_uninstall_leaves_nothing(several: Release, stores: Namespace) -> None:
    clusters = [each["metadata"]["name"] for each in several.listed("rayclusters")]
    assert _keys(stores)
    several.uninstall()
    assert clusters
    assert _keys(stores) == []
    left = several.kubectl(
        *("get", "all,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies"),
        *("-l", "app.kubernetes.io/instance=trivium", "-o", "json"),
    )
    assert json.loads(left)["items"] == []


def _is_gone(release: Release, pod: str) -> bool:
    return all(each["metadata"]["name"] != pod for each in release.listed("pods"))


def _keys(stores: Namespace) -> list[str]:
    return stores.kubectl("exec", "redis-0", "--", "redis-cli", "--scan").split()
