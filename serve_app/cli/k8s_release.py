"""One change of a release: checks, diff, Helm, and the wait until every road has answered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from serve_app.cli import k8s_show as show
from serve_app.cli.console import out
from serve_app.cluster import diff, manifests, preflight
from serve_app.cluster.diff import Change
from serve_app.cluster.findings import Finding, Plan
from serve_app.cluster.helm import Helm
from serve_app.cluster.kube import Kube, Object
from serve_app.cluster.rollout import OnProgress, Rollout
from serve_app.errors import SettingsError, TriviumError, Unavailable


@dataclass(frozen=True)
class Wishes:
    """How the caller wants it done.

    Attributes:
        go_back: To the last good revision, if the new one does not serve.
        ask: Wait for every road's answer, not only for the RayService.
    """

    yes: bool
    dry_run: bool
    timeout_s: float
    go_back: bool
    ask: bool
    as_json: bool


def objects(kube: Kube, text: str, source: str) -> list[Object]:
    """Rendered manifests, each with the namespace that it will live in.

    Raises:
        SettingsError: They are none, or nothing in them serves.
    """
    found = manifests.read(text, source)
    if manifests.ray_service(found) is None:
        raise SettingsError(f"{source}: there is no RayService in it: nothing would serve")
    return [kube.place(each) for each in found]


def checked(plan: Plan, ignored: Sequence[str], as_json: bool) -> list[Finding]:
    """Run the preflight, and show what it found.

    Raises:
        Unavailable: A check failed; nothing was changed.
    """
    found = preflight.run(plan, ignored)
    failed = [each for each in found if each.level == "failed"]
    if not as_json and any(each.level != "ok" for each in found):
        show.findings(found)
    if failed:
        if as_json:
            _print("refused", None, found, [])
        raise Unavailable(
            f"{len(failed)} of {len(found)} findings stand in the way; nothing was changed"
        )
    return found


def change(
    kube: Kube,
    helm: Helm,
    wanted: Sequence[Object],
    begin: Callable[[], subprocess.Popen[str]],
    wishes: Wishes,
    found: Sequence[Finding] = (),
) -> None:
    """Bring a release to some objects.

    Args:
        begin: Start Helm.
        found: By the preflight.

    Raises:
        Unavailable: The release does not come up.
        SettingsError: Nobody is there to confirm.
    """
    now = [kube.place(each) for each in manifests.read(helm.manifest(), "the present revision")]
    changes = diff.changes(now, wanted)
    if not wishes.as_json:
        show.diff(changes)
    if wishes.dry_run:
        _say("dry run", None, found, changes, wishes)
        return
    _confirm(kube, changes, wishes)
    kept = helm.revisions()
    try:
        with show.progress() as say:
            _roll(kube, helm, begin, wishes, say)
    except TriviumError as error:
        _after_failure(kube, helm, [each.number for each in kept], error, wishes)
        if wishes.as_json:
            now_kept = helm.revisions()
            number = now_kept[-1].number if now_kept else None
            _print("failed", number, found, changes, error)
        raise
    _say("deployed", helm.revisions()[-1].number, found, changes, wishes)


def _roll(
    kube: Kube,
    helm: Helm,
    begin: Callable[[], subprocess.Popen[str]],
    wishes: Wishes,
    say: OnProgress,
) -> None:
    rollout = Rollout(kube, helm.release, wishes.timeout_s, wishes.ask, say)
    rollout.follow(begin())
    rollout.wait()


def _after_failure(
    kube: Kube, helm: Helm, before: Sequence[int], error: TriviumError, wishes: Wishes
) -> None:
    """Go back where Helm was content and the roads are not; what comes of it is noted."""
    if not wishes.go_back:
        return
    kept = helm.revisions()
    if not kept or kept[-1].number in before:
        error.add_note("nothing was changed" if kept else "the release was taken away again")
        return
    if kept[-1].description.startswith("Rollback"):
        error.add_note(f"helm went back: revision {kept[-1].number}: {kept[-1].description}")
        return
    try:
        former = helm.before(None).number
        with show.progress() as say:
            _roll(kube, helm, lambda: helm.rollback(former, wishes.timeout_s), wishes, say)
    except TriviumError as second:
        error.add_note(f"it could not be taken back: {second.message}")
    else:
        error.add_note(f"went back to revision {former}")


def _confirm(kube: Kube, changes: Sequence[Change], wishes: Wishes) -> None:
    if wishes.yes:
        return
    if not sys.stdin.isatty():
        raise SettingsError("nobody is here to confirm: pass --yes, or --dry-run to only look")
    where = f"namespace {kube.namespace} of {kube.host}"
    typer.confirm(f"Make these {len(changes)} changes in {where}?", abort=True, err=True)


def _say(
    state: str,
    revision: int | None,
    found: Sequence[Finding],
    changes: Sequence[Change],
    wishes: Wishes,
) -> None:
    if wishes.as_json:
        _print(state, revision, found, changes)
    elif state == "deployed":
        answers = "every road answers" if wishes.ask else "its applications run"
        out.print(f"[bold green]revision {revision} serves: {answers}[/bold green]")
    else:
        out.print(f"{len(changes)} changes; nothing was applied")


def _print(
    state: str,
    revision: int | None,
    found: Sequence[Finding],
    changes: Sequence[Change],
    error: TriviumError | None = None,
) -> None:
    data: dict[str, Any] = {"state": state, "revision": revision}
    if error:
        data |= {"error": error.message, "notes": getattr(error, "__notes__", [])}
    print(json.dumps({**data, **show.as_data(found, changes)}))
