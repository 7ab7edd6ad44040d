"""One deployment from preflight to the last road's answer, and back if it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import typer

from serve_app.cli import cluster_show as show
from serve_app.cli.console import errors, out
from serve_app.cluster import diff, manifests, preflight, rollout
from serve_app.cluster.diff import Change
from serve_app.cluster.findings import Finding, Plan
from serve_app.cluster.kube import Kube, Object, Ref
from serve_app.cluster.revisions import Revision, Revisions
from serve_app.errors import SettingsError, TriviumError, Unavailable


@dataclass(frozen=True)
class Wishes:
    """How the caller wants it done.

    Attributes:
        go_back: Re-apply the last good revision if the new one fails.
        ask: Wait for every road's answer, not only for the RayService.
        ignored: Checks whose failure stops nothing.
    """

    yes: bool
    dry_run: bool
    timeout_s: float
    force: bool
    go_back: bool
    ask: bool
    as_json: bool
    ignored: Sequence[str] = ()


def roll(
    kube: Kube, release: str, objects: Sequence[Object], note: str, wishes: Wishes, check: bool
) -> None:
    """Bring a release to these objects.

    Args:
        note: What this is, for the list of revisions.
        check: Run the preflight first.

    Raises:
        Unavailable: A check failed and nothing was changed, or the release does not come up.
        Conflict: Others own fields that would change.
        SettingsError: Nobody is there to confirm.
    """
    service = manifests.ray_service(objects)
    if service is None:
        raise SettingsError("there is no RayService in these manifests: nothing would serve")
    objects = [kube.place(each) for each in objects]
    found = preflight.run(Plan(kube, release, objects), wishes.ignored) if check else []
    _stop_at_failures(found, wishes)
    history = Revisions(kube, release)
    kept = history.all()
    changes = diff.changes(kube, objects, _former(kept), wishes.force)
    if not wishes.as_json:
        show.diff(changes)
    if not changes and kept and kept[-1].state == "deployed":
        _say(found, changes, "unchanged", kept[-1].number, wishes)
        return
    if wishes.dry_run:
        _say(found, changes, "dry run", None, wishes)
        return
    _confirm(kube, changes, wishes)
    revision = history.begin(objects, note)
    try:
        _apply(kube, release, objects, changes, wishes)
    except (TriviumError, KeyboardInterrupt) as error:
        history.finish(revision, "failed")
        if isinstance(error, TriviumError) and wishes.go_back:
            _go_back(kube, release, history, error, wishes)
        _say(found, changes, "failed", revision.number, wishes)
        raise
    history.finish(revision, "deployed")
    _say(found, changes, "deployed", revision.number, wishes)


def _stop_at_failures(found: Sequence[Finding], wishes: Wishes) -> None:
    failed = [each for each in found if each.level == "failed"]
    if not wishes.as_json and any(each.level != "ok" for each in found):
        show.findings(found)
    if not failed:
        return
    if wishes.as_json:
        _say(found, [], "refused", None, wishes)
    raise Unavailable(
        f"{len(failed)} of {len(found)} findings stand in the way; nothing was changed"
    )


def _former(kept: Sequence[Revision]) -> list[Object]:
    """Objects that may be there: of the last good revision, and of what failed since."""
    good = [i for i, each in enumerate(kept) if each.state == "deployed"]
    since = kept[good[-1] if good else 0 :]
    return list({Ref.of(thing): thing for each in since for thing in each.objects}.values())


def _confirm(kube: Kube, changes: Sequence[Change], wishes: Wishes) -> None:
    if wishes.yes:
        return
    if not sys.stdin.isatty():
        raise SettingsError("nobody is here to confirm: pass --yes, or --dry-run to only look")
    where = f"namespace {kube.namespace} of {kube.host}"
    typer.confirm(f"Make these {len(changes)} changes in {where}?", abort=True, err=True)


def _apply(
    kube: Kube,
    release: str,
    objects: Sequence[Object],
    changes: Sequence[Change],
    wishes: Wishes,
) -> None:
    service = next(each for each in objects if each["kind"] == "RayService")
    with show.progress() as say:
        rollout.put(kube, objects, changes, wishes.force, say)
        rollout.wait(kube, release, Ref.of(service), wishes.timeout_s, wishes.ask, say)


def _go_back(
    kube: Kube, release: str, history: Revisions, error: TriviumError, wishes: Wishes
) -> None:
    """Re-apply the last good revision; what comes of it is added to the error."""
    good = [each for each in history.all() if each.state == "deployed"]
    if not good:
        error.add_note("there is no earlier revision to go back to")
        return
    note = f"back to {good[-1].number}"
    quiet = replace(wishes, yes=True, go_back=False, force=True, as_json=True, dry_run=False)
    errors.print(f"going {note}")
    changes = diff.changes(kube, good[-1].objects, _former(history.all()), force=True)
    revision = history.begin(good[-1].objects, note)
    try:
        _apply(kube, release, good[-1].objects, changes, quiet)
    except TriviumError as second:
        history.finish(revision, "failed")
        error.add_note(f"going {note} failed too: {second.message}")
        return
    history.finish(revision, "deployed")
    error.add_note(f"went {note}: it serves as revision {revision.number}")


def _say(
    found: Sequence[Finding],
    changes: Sequence[Change],
    state: str,
    revision: int | None,
    wishes: Wishes,
) -> None:
    if wishes.as_json:
        data: dict[str, Any] = {"state": state, "revision": revision}
        print(json.dumps({**data, **show.as_data(found, changes)}))
    elif state == "deployed":
        out.print(f"[bold green]revision {revision} serves: every road answers[/bold green]")
    elif state == "unchanged":
        out.print(f"nothing to change: revision {revision} is what runs")
    elif state == "dry run":
        out.print(f"{len(changes)} changes; nothing was applied")
