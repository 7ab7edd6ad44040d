"""How long each step takes from a replica that is wanted, and has no room, to one that serves."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime

from tests.cluster_full.release import Json, Refused, Release, awaited

_NODES = "api/v0/nodes?detail=true"


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of each step of a new pod and of the replica on it.

    Attributes:
        pod: From the wish to a pod that is scheduled: Helm, the operator, Serve, Ray's autoscaler.
        waited: The operator's own container, which waits for the head, and the start of ours.
        ray: From there to a node that Ray knows.
        asked: From there to Serve's asking for the replica's process.
        started: From there to a replica that serves: imports, models, warm-up.
        proxy: From the scheduling to a pod that is ready: its proxy answers.
    """

    pod: float
    waited: float
    ray: float
    asked: float
    started: float
    proxy: float

    @property
    def serves(self) -> float:
        """Seconds from a pod that is scheduled to a replica that serves."""
        return self.waited + self.ray + self.asked + self.started

    def __str__(self) -> str:
        return (
            f"wanted → {self.pod:.0f} s → scheduled → {self.waited:.0f} s → container → "
            f"{self.ray:.0f} s → Ray's node → {self.asked:.0f} s → asked for → {self.started:.0f} s"
            f" → serves: {self.serves:.0f} s after it was scheduled (the pod is ready after "
            f"{self.proxy:.0f} s)"
        )


def measured(release: Release, deployment: str, *values: str) -> Phases:
    """Phases of one more replica of a deployment, which these values want and a new pod takes."""
    before = release.replicas()[deployment]
    wanted = time.time()
    release.apply(*values)

    def come() -> Json | None:
        try:
            told = release.serving().get(deployment, {"replicas": []})["replicas"]
        except Refused:  # a busy node
            return None
        new = (each for each in told if each["replica_id"] not in before)
        return next((each for each in new if each["state"] == "RUNNING"), None)

    replica = awaited("one more replica that serves", come, 300)
    serves = time.time()
    pods = release.listed("pods", "-l", "ray.io/node-type=worker")
    (pod,) = (each for each in pods if each["status"].get("podIP") == replica["node_ip"])
    awaited("its pod's readiness", lambda: _moment(release.pod(pod), "Ready"), 120)
    pod = release.pod(pod)
    scheduled = _moment(pod, "PodScheduled")
    container = _time(pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"])
    node = _joined(release, replica["node_ip"])
    return Phases(
        pod=scheduled - wanted,
        waited=container - scheduled,
        ray=node - container,
        asked=replica["start_time_s"] - node,
        started=serves - replica["start_time_s"],
        proxy=_moment(pod, "Ready") - scheduled,
    )


def _moment(pod: Json, condition: str) -> float:
    """When a condition came true; 0 where it has not."""
    for each in pod["status"]["conditions"]:
        if each["type"] == condition and each["status"] == "True":
            return _time(each["lastTransitionTime"])
    return 0.0


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _joined(release: Release, address: str) -> float:
    """When Ray took a node in."""
    nodes = json.loads(release.dashboard(_NODES))["data"]["result"]["result"]
    (node,) = (e for e in nodes if e["node_ip"] == address and e["state"] == "ALIVE")
    return float(node["start_time_ms"]) / 1000
