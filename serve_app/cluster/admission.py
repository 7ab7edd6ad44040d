"""Would the API server take it? It is asked, by dry runs: its own rules and admission answer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from serve_app.cluster import needs
from serve_app.cluster.findings import Finding, Plan
from serve_app.cluster.kube import MANAGER, Object
from serve_app.cluster.refusals import Conflict, UnknownKind
from serve_app.errors import NotFound, TriviumError

_RIGHTS = re.compile(r'User "[^"]*" cannot ')
# Another check's to say: who may do what, how much is left, what is not there yet.
_OTHERS = ("exceeded quota", "failed quota")

_REMEDIES = {
    "violates PodSecurity": "kubectl label --overwrite namespace {namespace} "
    "pod-security.kubernetes.io/enforce=baseline, or leave out what the standard forbids",
    "immutable": "keep the value as it was, or delete the object (and what it holds) first",
    "are forbidden": "keep the value as it was, or delete the object (and what it holds) first",
    "field not declared in schema": "its CRDs are older than the chart's: bring the operator up to "
    "date, or name its version in your values",
    "PriorityClass": "create the priority class, or name one that is there",
    "RuntimeClass": "create the runtime class, or name one that is there",
}


def admission(plan: Plan) -> Iterator[Finding]:
    """Whether each object, and a pod of each group, would be let in."""
    refused = [*_objects(plan), *_pods(plan)]
    yield from refused
    if not refused:
        yield Finding("admission", "ok", f"the API server takes all {len(plan.objects)} objects")


def _objects(plan: Plan) -> Iterator[Finding]:
    for thing in plan.objects:
        try:
            plan.kube.apply(thing, dry_run=True, force=plan.force)
        except (NotFound, UnknownKind):
            continue  # namespace and kinds are other checks
        except Conflict as error:
            if error.managers == {MANAGER}:
                continue  # Helm's own, from when it patched as Helm 3 does
            yield Finding("admission", "failed", error.message, "or ask that manager to let it go")
        except TriviumError as error:
            yield from _refusal(plan, error)


def _pods(plan: Plan) -> Iterator[Finding]:
    """The operator makes them later; Helm would say "deployed" though none is let in."""
    for group in needs.groups(plan.objects):
        try:
            plan.kube.create(_pod(plan, group), dry_run=True)
        except NotFound:
            continue
        except TriviumError as error:
            error.message = f"a pod of {group.name}: {error.message}"
            yield from _refusal(plan, error)


def _pod(plan: Plan, group: needs.Group) -> Object:
    # The release's own service account may not be there before the release, nor may its claims.
    spec = {key: value for key, value in group.pod.items() if key != "serviceAccountName"}
    volumes = list(spec.get("volumes") or ())
    mounts = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts") or ()}
    claimed = mounts - {each["name"] for each in volumes}
    spec["volumes"] = [*volumes, *({"name": name, "emptyDir": {}} for name in sorted(claimed))]
    meta = {"generateName": "trivium-preflight-", "namespace": plan.kube.namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _refusal(plan: Plan, error: TriviumError) -> Iterator[Finding]:
    if error.status == 503:
        raise error
    if _RIGHTS.search(error.message) or any(each in error.message for each in _OTHERS):
        return
    told = (remedy for sign, remedy in _REMEDIES.items() if sign in error.message)
    remedy = next(told, "change the value that it names")
    yield Finding(
        "admission", "failed", error.message, remedy.format(namespace=plan.kube.namespace)
    )
