"""What changes, dies or goes away under clients that never stop asking."""

from __future__ import annotations

import json
import time
from functools import partial

import httpx
import openai
import pytest

from tests.cluster_full.clients import Heard, streaming
from tests.cluster_full.release import HERE, Namespace, Refused, Release, awaited

pytestmark = pytest.mark.timeout(1500)
ENOUGH = 12  # answers, before and after something happens
NONE = json.dumps([{"of": "house", "per": "minute", "requests": 0}])
NEXT = ("--set", "image.tag=cpu-next", "--set-string", "ray.env.RAY_SERVE_ENABLE_HA_PROXY=0")


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
        # The head ends without it, and comes back.
        awaited("a head", lambda: several.ready("head") == 1, 180)
        several.wait_ready()
        go_on(heard, 30)
    assert heard.lost == []


def test_a_limit_and_a_policy_change_while_nothing_restarts(several: Release) -> None:
    before = several.replicas()
    with streaming(several.url) as heard:
        go_on(heard)
        several.apply("-f", str(HERE / "changed.yaml"))
        awaited("the new limit", lambda: _house_usd(several) == [2000], 120)
        awaited("the new policy", lambda: _refusal(several, "the bluebird plan") == 403, 120)
        go_on(heard, 30)
    assert heard.lost == []
    # Those that are taking their new settings do not count as running.
    awaited("the same replicas", lambda: several.replicas() == before, 60)
    # A limit of none at all refuses the next question.
    several.apply("-f", str(HERE / "changed.yaml"), "--set-json", f"settings.ledger.limits={NONE}")
    awaited("a question too many", lambda: _refusal(several, "hello") == 429, 120)
    several.apply()
    awaited("the old limit", lambda: _house_usd(several) == [], 120)
    awaited("the old policy", lambda: _refusal(several, "the bluebird plan") is None, 120)
    awaited("the same replicas", lambda: several.replicas() == before, 60)


def _house_usd(release: Release) -> list[float] | None:
    """What the house may spend in a month, as a caller is told; `None` where nothing is told."""
    answer = httpx.get(f"{release.url}/v1/usage", timeout=30)
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return None
    told = answer.raise_for_status().json()
    return [each["limit"] for each in told["limits"] if each["unit"] == "usd"]


def _refusal(release: Release, question: str) -> int | None:
    """The status with which the frontier's road is refused."""
    with openai.OpenAI(base_url=f"{release.url}/v1", api_key="none", max_retries=0) as client:
        try:
            client.chat.completions.create(
                model="trivium/frontier",
                messages=[{"role": "user", "content": question}],
                max_completion_tokens=4,
            )
        except openai.APIStatusError as error:
            return error.status_code
    return None


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
    """It is the same image under a name of its own; Serve's proxy takes HAProxy's place with it."""
    old = several.cluster
    with streaming(several.url) as heard:
        go_on(heard)
        several.apply(*NEXT)
        awaited("another cluster", lambda: several.cluster not in ("", old), 600)
        awaited("the old one's end", lambda: len(several.listed("rayclusters")) == 1, 400)
        go_on(heard)
    assert heard.lost == []


def test_without_haproxy_a_worker_that_is_deleted_finishes_its_streams(several: Release) -> None:
    several.apply(*NEXT)
    several.wait_ready()
    victim = several.pods("worker")[0]
    with streaming(several.url, clients=8, roads=("expert",)) as heard:
        go_on(heard)
        several.kubectl("delete", "pod", victim, "--wait=false")
        awaited("the pod's end", partial(_is_gone, several, victim), 400)
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
