"""Watch a release come up: what it waits for, and whether waiting helps."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from serve_app.cluster import serving, stack, trouble
from serve_app.cluster.kube import Kube, Object
from serve_app.cluster.trouble import Trouble
from serve_app.errors import NotFound, TriviumError, Unavailable

POLL_S = 2.0
_PERSISTS = 5  # looks in a row, after which a fatal trouble is believed: registries hiccup
_BACK_S = 60.0  # for Helm to give up, beyond its own time-out

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


class Rollout:
    """One release on its way.

    Args:
        ask: Whether the roads are asked, through the API server; else its status is believed.
    """

    def __init__(
        self, kube: Kube, release: str, timeout_s: float, ask: bool, on_progress: OnProgress
    ) -> None:
        self._kube, self._release, self._ask = kube, release, ask
        self._timeout_s, self._say = timeout_s, on_progress
        self._deadline = time.monotonic() + timeout_s
        self._seen: Counter[tuple[str, str]] = Counter()
        self._troubles: list[Trouble] = []
        self._before = self._generation()

    def follow(self, helm: subprocess.Popen[str]) -> None:
        """Return when Helm is content; stop it where waiting does not help.

        Raises:
            RolloutFailed: Helm is not content, in its words; or what is wrong does not go away.
        """
        try:
            told = self._followed(helm)
        except BaseException:
            self._stop(helm)
            raise
        if helm.returncode:
            last = (told.strip().splitlines() or ["no word"])[-1]
            raise RolloutFailed(f"helm: {last.removeprefix('Error: ')}", self._troubles)

    def _followed(self, helm: subprocess.Popen[str]) -> str:
        # Helm ends by itself when its time is up; after that it may go back, as long again.
        patience = time.monotonic() + 2 * self._timeout_s + _BACK_S
        while time.monotonic() < patience:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return helm.communicate(timeout=POLL_S)[0]
            # Until Helm has sent something, what is wrong is wrong with what was there before.
            self._look(judge=self._generation() != self._before)
        raise RolloutFailed(f"helm did not end within {2 * self._timeout_s:.0f} s", self._troubles)

    def _stop(self, helm: subprocess.Popen[str]) -> None:
        """As Ctrl-C: Helm marks the revision as failed, and goes back where it was asked to."""
        if helm.poll() is not None:
            return
        helm.send_signal(signal.SIGINT)
        try:
            helm.communicate(timeout=self._timeout_s + _BACK_S)
        except subprocess.TimeoutExpired:
            helm.kill()
            helm.communicate()

    def wait(self) -> None:
        """Return when the RayService serves its latest spec and every road has answered.

        Raises:
            RolloutFailed: Time is up, or what is wrong does not go away by waiting.
        """
        while waiting := self._look(judge=True):
            if time.monotonic() > self._deadline:
                raise RolloutFailed(
                    f"not ready after {self._timeout_s:.0f} s, {waiting}", self._troubles
                )
            time.sleep(POLL_S)

    def _generation(self) -> int | None:
        try:
            return int(stack.service(self._kube, self._release)["metadata"]["generation"])
        except TriviumError:
            return None

    def _look(self, judge: bool) -> str:
        """What is still waited for, empty when nothing is."""
        try:
            waiting, self._troubles = _state(self._kube, self._release, self._ask)
        except NotFound:
            waiting, self._troubles = "nothing is there yet", []
        except Unavailable as error:
            # An API server may restart, as anything may.
            waiting, self._troubles = error.message, []
        worst = f" · {self._troubles[0]}" if self._troubles else ""
        if waiting:
            self._say(f"{waiting}{worst}")
        fatal = {(e.subject, e.reason) for e in self._troubles if e.fatal and judge}
        self._seen = Counter({each: self._seen[each] + 1 for each in fatal})
        if any(count >= _PERSISTS for count in self._seen.values()):
            raise RolloutFailed(f"{self._release} will not serve", self._troubles)
        return waiting


def _state(kube: Kube, release: str, ask: bool) -> tuple[str, list[Trouble]]:
    """What is still waited for, empty when nothing is, and what is wrong."""
    service = stack.service(kube, release)
    waiting = _waiting(service)
    late = [] if _starting(service) else serving.lagging(kube, service)
    if late:
        waiting = f"a change of {', '.join(late)} is on its way"
    elif not waiting and ask:
        waiting = _roads(kube, service)
    if not waiting:
        return "", []
    # What is wrong with the cluster that goes is mended by its going.
    coming = stack.upcoming(service)
    pods = stack.pods(kube, release, stack.clusters(coming))
    troubles = trouble.find(kube, coming, pods)
    if late or not _taken_up(service):
        troubles = [replace(each, fatal=False) for each in troubles]  # of what was there before
    return f"{sum(map(stack.is_ready, pods))}/{len(pods)} pods ready · {waiting}", troubles


def _waiting(service: Object) -> str:
    """What the RayService's status still waits for; empty when it serves its latest spec."""
    status = service.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    if not _taken_up(service):
        return "waiting for the KubeRay operator to take it up"
    if _starting(service):
        return "the new cluster starts"
    apps = serving.told(service)
    if starting := [f"{app.name} is {app.status}" for app in apps if not app.up]:
        return ", ".join(starting)
    ready = conditions.get("Ready") or {}
    if ready.get("status") != "True":
        return f"RayService is not ready yet ({ready.get('reason') or 'no condition'})"
    if (conditions.get("UpgradeInProgress") or {}).get("status") == "True":
        return "traffic moves to the new cluster"
    return "" if apps else "the application is not there yet"


def _starting(service: Object) -> bool:
    """Whether a cluster is on its way beside the one that serves, or before there is one."""
    status = service.get("status") or {}
    return bool((status.get("pendingServiceStatus") or {}).get("rayClusterName"))


def _taken_up(service: Object) -> bool:
    """Whether the status is of the latest spec."""
    observed = (service.get("status") or {}).get("observedGeneration", 0)
    return bool(observed >= service["metadata"].get("generation", 0))


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
