"""Why does it not start? The one event, message or log line that matters, out of many."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from serve_app.cluster import stack
from serve_app.cluster.kube import Kube, Object
from serve_app.errors import TriviumError

_LINES = 6
_CRASHES = 3  # a container that has failed so often will not come up by waiting
_TELLING = re.compile(r"\b\w*(error|exception|fatal|panic|oom|killed)\b", re.IGNORECASE)

_REMEDIES = {
    "ErrImagePull": "check the image's name and tag, and imagePullSecrets",
    "ImagePullBackOff": "check the image's name and tag, and imagePullSecrets",
    "InvalidImageName": "correct the image's name",
    "CreateContainerConfigError": "create the secret, config map or key that it names",
    "OOMKilled": "give it more memory, or its engine a smaller share of it",
    "Unschedulable": "add nodes, ask for less, or match node selector and tolerations",
}
_RECENT = timedelta(minutes=15)  # a warning that is older tells of what is over
_HOPELESS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")


@dataclass(frozen=True)
class Trouble:
    """One thing that keeps a release from serving.

    Attributes:
        subject: What has it: a pod's container, an application, a RayService.
        fatal: Waiting does not help.
        age_s: How long ago, of what has passed; None for what is so now.
        log: The last lines that it wrote, where that says more.
    """

    subject: str
    reason: str
    message: str
    fatal: bool = False
    log: tuple[str, ...] = ()
    age_s: float | None = None

    @property
    def remedy(self) -> str:
        """What to do about it; empty where only the message tells."""
        return _REMEDIES.get(self.reason, "")

    def __str__(self) -> str:
        told = f"{self.subject}: {self.reason}: {self.message}".rstrip(": ")
        told = f"{told} ({self.remedy})" if self.remedy else told
        return told if self.age_s is None else f"{told}, {self.age_s / 60:.0f} min ago"


def find(kube: Kube, service: Object, pods: Sequence[Object]) -> list[Trouble]:
    """What is wrong now, the most telling first. Logs are read of what crashed only."""
    found = [*_applications(service), *(t for pod in pods for t in _pod(kube, pod))]
    found += _conditions(service)
    found.sort(key=lambda each: not each.fatal)
    return found or list(_events(kube, service, pods))


def _applications(service: Object) -> Iterator[Trouble]:
    status = service.get("status") or {}
    for part in ("pendingServiceStatus", "activeServiceStatus"):
        for name, app in ((status.get(part) or {}).get("applicationStatuses") or {}).items():
            bad = [
                Trouble(f"deployment {each}", told["status"], _last_line(told.get("message", "")))
                for each, told in (app.get("serveDeploymentStatuses") or {}).items()
                if told.get("status") in ("UNHEALTHY", "DEPLOY_FAILED")
            ]
            if app.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
                fatal = app["status"] == "DEPLOY_FAILED"
                message = _last_line(app.get("message", ""))
                yield Trouble(f"application {name}", app["status"], message, fatal)
            yield from bad


def _conditions(service: Object) -> Iterator[Trouble]:
    for each in (service.get("status") or {}).get("conditions") or ():
        if each["type"] == "Ready" and each.get("reason") == "InitializingTimeout":
            subject = f"RayService/{service['metadata']['name']}"
            yield Trouble(subject, each["reason"], each.get("message", ""), fatal=True)


def _pod(kube: Kube, pod: Object) -> Iterator[Trouble]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason, message = condition.get("reason", ""), condition.get("message", "")
            yield Trouble(f"Pod/{name}", reason, message)
    every = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    for container in every:
        yield from _container(kube, name, container)


def _container(kube: Kube, pod: str, status: Mapping[str, Any]) -> Iterator[Trouble]:
    subject = f"Pod/{pod} {status['name']}"
    waiting = (status.get("state") or {}).get("waiting") or {}
    ended = _ended(status)
    if waiting.get("reason") in _HOPELESS:
        yield Trouble(subject, waiting["reason"], waiting.get("message", ""), fatal=True)
    elif ended:
        restarts = status.get("restartCount", 0)
        lines = _log(kube, pod, status["name"], previous=bool(waiting))
        reason = ended.get("reason") or waiting.get("reason") or "Error"
        told = _telling(lines) or ended.get("message") or f"exit code {ended['exitCode']}"
        yield Trouble(subject, reason, told, restarts >= _CRASHES, tuple(lines[-_LINES:]))


def _ended(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """How a container failed: now, or before the restart that it waits for."""
    for state in (status.get("state") or {}, status.get("lastState") or {}):
        ended: Mapping[str, Any] = state.get("terminated") or {}
        if ended.get("exitCode"):
            return {} if "running" in (status.get("state") or {}) else ended
    return {}


def _log(kube: Kube, pod: str, container: str, previous: bool) -> list[str]:
    try:
        return [line for line in kube.log(pod, container, previous) if line.strip()]
    except TriviumError:
        return []  # the log is gone with its container; the status still tells


def _telling(lines: Sequence[str]) -> str:
    """The last line that speaks of an error, or else the last."""
    errors = [line for line in lines if _TELLING.search(line)]
    return (errors or lines or [""])[-1].strip()


def _last_line(message: str) -> str:
    """A traceback's last line says it."""
    return _telling([line for line in message.splitlines() if line.strip()])


def _events(kube: Kube, service: Object, pods: Sequence[Object]) -> Iterator[Trouble]:
    """The last warnings about the release, the newest first; where nothing else tells.

    What was wrong with a pod that is ready, or with one that is gone, is wrong no more.
    """
    waiting = (each["metadata"]["name"] for each in pods if not stack.is_ready(each))
    about = {service["metadata"]["name"], *waiting}
    now = datetime.now(UTC)
    warnings = [
        (now - when, each)
        for each in kube.find("v1", "Event")
        if each.get("type") == "Warning" and each["involvedObject"].get("name") in about
        if (when := _when(each)) and now - when < _RECENT
    ]
    for age, each in sorted(warnings, key=lambda pair: pair[0])[:3]:
        subject = f"{each['involvedObject']['kind']}/{each['involvedObject']['name']}"
        told = each.get("reason", ""), each.get("message", "")
        yield Trouble(subject, *told, age_s=max(0.0, age.total_seconds()))


def _when(event: Object) -> datetime | None:
    last = (event.get("series") or {}).get("lastObservedTime") or event.get("lastTimestamp")
    text = last or event.get("eventTime")
    return datetime.fromisoformat(text) if text else None
