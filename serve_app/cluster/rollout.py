"""Apply, then wait until every road answers, or until it is clear that none will."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from serve_app.cluster import stack, trouble
from serve_app.cluster.diff import Change
from serve_app.cluster.kube import Kube, Object, Ref
from serve_app.cluster.trouble import Trouble
from serve_app.errors import TriviumError, Unavailable

POLL_S = 2.0
_PERSISTS = 5  # polls in a row, after which a fatal trouble is believed: registries hiccup

_UP = ("HEALTHY", "UPSCALING", "DOWNSCALING")  # the autoscaler is always at it

OnProgress = Callable[[str], None]


class RolloutFailed(Unavailable):
    """It does not serve; `troubles` say why, the most telling first."""

    def __init__(self, message: str, troubles: Sequence[Trouble]) -> None:
        super().__init__(message)
        self.troubles = list(troubles)
        for each in self.troubles:
            self.add_note(f"  {each}")
            for line in each.log:
                self.add_note(f"    | {line}")


def put(
    kube: Kube,
    objects: Sequence[Object],
    changes: Sequence[Change],
    force: bool,
    on_progress: OnProgress,
) -> None:
    """Apply every object in order, then delete what is no longer wanted."""
    for thing in objects:
        on_progress(f"applying {Ref.of(thing)}")
        kube.apply(thing, force=force)
    for change in changes:
        if change.action == "delete":
            on_progress(f"deleting {change.ref}")
            kube.delete(change.ref)


def wait(
    kube: Kube,
    release: str,
    ref: Ref,
    timeout_s: float,
    ask: bool,
    on_progress: OnProgress,
) -> None:
    """Return when the RayService serves its latest spec and every road has answered.

    Args:
        ref: Of the RayService.
        ask: Whether the roads are asked, through the API server; else its status is believed.

    Raises:
        RolloutFailed: Time is up, or what is wrong does not go away by waiting.
    """
    deadline = time.monotonic() + timeout_s
    seen: Counter[tuple[str, str]] = Counter()
    while True:
        try:
            waiting, troubles = _look(kube, release, ref, ask)
        except Unavailable as error:
            waiting, troubles = error.message, []  # an API server may restart, as anything may
        if not waiting:
            return
        worst = f" · {troubles[0]}" if troubles else ""
        on_progress(f"{waiting}{worst}")
        fatal = {(each.subject, each.reason) for each in troubles if each.fatal}
        seen = Counter({each: seen[each] + 1 for each in fatal})
        if any(count >= _PERSISTS for count in seen.values()):
            raise RolloutFailed(f"{ref} will not serve", troubles)
        if time.monotonic() > deadline:
            raise RolloutFailed(f"not ready after {timeout_s:.0f} s, {waiting}", troubles)
        time.sleep(POLL_S)


def _look(kube: Kube, release: str, ref: Ref, ask: bool) -> tuple[str, list[Trouble]]:
    """What is still waited for, empty when nothing is, and what is wrong."""
    service = kube.get(ref)
    if service is None:
        return f"{ref} has been deleted", []
    waiting = _waiting(service) or (_roads(kube, service) if ask else "")
    if not waiting:
        return "", []
    # What is wrong with the cluster that goes is mended by its going.
    coming = stack.upcoming(service)
    pods = stack.pods(kube, release, stack.clusters(coming))
    troubles = trouble.find(kube, coming, pods)
    if not _taken_up(service):
        troubles = [replace(each, fatal=False) for each in troubles]  # of what was there before
    return f"{sum(map(is_ready, pods))}/{len(pods)} pods ready · {waiting}", troubles


def _waiting(service: Object) -> str:
    """What the RayService's status still waits for; empty when it serves its latest spec."""
    status = service.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    if not _taken_up(service):
        return "waiting for the KubeRay operator to take it up"
    if (status.get("pendingServiceStatus") or {}).get("rayClusterName"):
        return "the new cluster starts"
    apps = (status.get("activeServiceStatus") or {}).get("applicationStatuses") or {}
    starting = [f"{name} is {app.get('status')}" for name, app in apps.items() if not _up(app)]
    if starting:
        return ", ".join(starting)
    ready = conditions.get("Ready") or {}
    if ready.get("status") != "True":
        return f"RayService is not ready yet ({ready.get('reason') or 'no condition'})"
    if (conditions.get("UpgradeInProgress") or {}).get("status") == "True":
        return "traffic moves to the new cluster"
    return "" if apps else "the application is not there yet"


def _taken_up(service: Object) -> bool:
    """Whether the status is of the latest spec."""
    observed = (service.get("status") or {}).get("observedGeneration", 0)
    return bool(observed >= service["metadata"].get("generation", 0))


def _up(app: Object) -> bool:
    deployments = (app.get("serveDeploymentStatuses") or {}).values()
    return app.get("status") == "RUNNING" and all(d.get("status") in _UP for d in deployments)


def _roads(kube: Kube, service: Object) -> str:
    """What the gateway still waits for; empty once every road has answered a question."""
    name, port = stack.front(service)
    try:
        kube.proxy(name, port, "/readyz")
    except TriviumError as error:
        try:
            waiting = json.loads(error.message)["waiting_for"]
        except (ValueError, KeyError, TypeError):
            return (
                f"service {name} does not answer through the API server ({error.message}); if a "
                "NetworkPolicy keeps it out, allow it or pass --no-ask"
            )
        return f"roads are asked, waiting for {', '.join(waiting)}"
    return ""


def is_ready(pod: Object) -> bool:
    """Whether a pod takes traffic."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
