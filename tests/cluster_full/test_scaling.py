"""Load makes replicas, and then pods, come and go. Draws build/autoscaling.svg of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial

import httpx
import pytest

from tests.cluster_full.clients import Heard, streaming
from tests.cluster_full.conftest import installed
from tests.cluster_full.phases import measured
from tests.cluster_full.plot import Sample, draw
from tests.cluster_full.release import HERE, ROOT, Namespace, Refused, Release, awaited
from tests.integration.callers import repeated

pytestmark = pytest.mark.timeout(2400)
SERVES_S = 90  # on two cores that others use; docs/install.md has those of a quiet machine
STREAMS, DECISIONS = 8, 6  # callers of the expert, and of the router alone


@pytest.fixture(scope="module")
def elastic(stores: Namespace) -> Iterator[Release]:
    """One worker pod, which may become two: more models than that starve on two cores."""
    release = Release("trivium-elastic", HERE / "several.yaml", HERE / "elastic.yaml")
    yield from installed(release, release.apply)


@pytest.mark.parametrize("role", ["router", "gateway", "retrieval", "frontier", "expert"])
def test_a_replica_without_room_gets_a_pod_and_serves(elastic: Release, role: str) -> None:
    deployment = {"retrieval": "Retriever"}.get(role, role.capitalize())
    more = (f"scaling.{role}.min_replicas=2", f"scaling.{role}.max_replicas=2")
    found = measured(elastic, deployment, "--set", ",".join(more))
    print(f"\n{role}: {found}")
    assert found.serves < SERVES_S
    elastic.apply()
    awaited("one pod again", lambda: len(elastic.pods("worker")) == 1, 300)


class Watch:
    """Looks at a release again and again, in a thread of its own."""

    def __init__(self, release: Release, heard: Heard) -> None:
        self._release, self.heard = release, [heard]
        self._began, self._end = time.monotonic(), threading.Event()
        self.callers = 1
        self.decided = 0
        self.samples: list[Sample] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        yield
        self._end.set()
        thread.join(30)

    def _run(self) -> None:
        while not self._end.wait(2):
            with suppress(Refused):  # a look that a busy node does not answer is left out
                self.samples.append(self._look())

    def _look(self) -> Sample:
        running = self._release.replicas()
        return Sample(
            round(time.monotonic() - self._began, 1),
            sum(each.whole for each in self.heard) + self.decided,
            self.callers,
            (len(running["Router"]), len(running["Expert"])),
            self._release.ready("worker"),
        )

    @property
    def now(self) -> tuple[int, int, int]:
        """Replicas of the router and of the expert, and pods, when it was looked last."""
        last = self.samples[-1] if self.samples else Sample(0, 0, 0, (0, 0), 0)
        return (*last.replicas, last.pods)


def test_load_makes_replicas_and_pods_come_and_go_and_loses_nothing(elastic: Release) -> None:
    seen: list[float] = []
    with streaming(elastic.url, clients=1, roads=("expert",)) as heard:
        watch = Watch(elastic, heard)
        with watch.watching():
            awaited("one of everything", lambda: watch.now == (1, 1, 1), 60)
            awaited("some answers", lambda: heard.whole >= 10, 120)
            with load(elastic, watch) as burst:
                started = time.monotonic()
                awaited("two of everything", lambda: watch.now == (2, 2, 2), 900)
                seen.append(time.monotonic() - started)
                before = burst.whole
                awaited("answers of all", lambda: burst.whole >= before + 60, 180)
            started = time.monotonic()
            awaited("one of everything again", lambda: watch.now == (1, 1, 1), 900)
            seen.append(time.monotonic() - started)
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    samples = [asdict(each) for each in watch.samples]
    (build / "autoscaling.json").write_text(json.dumps(samples), encoding="utf-8")
    draw(watch.samples, build / "autoscaling.svg")
    requests = heard.whole + burst.whole + watch.decided
    print(f"\ngrown in {seen[0]:.0f} s, shrunk in {seen[1]:.0f} s, {requests} requests, none lost")
    assert heard.lost + burst.lost == []


@contextmanager
def load(release: Release, watch: Watch) -> Iterator[Heard]:
    """Many callers at once."""
    with ExitStack() as stack:
        http = stack.enter_context(httpx.Client(base_url=release.url, timeout=60))
        burst = stack.enter_context(streaming(release.url, STREAMS, ("expert",)))
        stack.enter_context(repeated(*[partial(_decide, http, watch)] * DECISIONS))
        watch.heard.append(burst)
        watch.callers += STREAMS + DECISIONS
        yield burst
        watch.callers -= STREAMS + DECISIONS


def _decide(http: httpx.Client, watch: Watch) -> None:
    http.post("/v1/route", json={"query": "Why is my parcel late?"}).raise_for_status()
    watch.decided += 1
