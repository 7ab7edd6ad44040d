"""What a deployment would change, as the API server itself says: a dry run, beside what is live."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from serve_app.cluster.kube import Kube, Object, Ref
from serve_app.cluster.refusals import Conflict

_KEEP = "helm.sh/resource-policy"
# Data lives in these: they go only when somebody deletes them by hand.
_NEVER_DELETED = ("PersistentVolumeClaim", "Namespace", "CustomResourceDefinition")
# What the server keeps for itself.
_OWN = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True)
class Change:
    """Of one object; `lines` are a unified diff without its header, secrets masked."""

    action: Literal["create", "change", "delete"]
    ref: Ref
    lines: tuple[str, ...] = ()


def changes(
    kube: Kube, objects: Sequence[Object], former: Sequence[Object], force: bool
) -> list[Change]:
    """What applying `objects` would change; of the `former` ones, those now missing go.

    Raises:
        Conflict: Fields belong to other managers and `force` is off; names all of them.
    """
    found: list[Change] = []
    conflicts: list[str] = []
    for thing in objects:
        try:
            change = _change(kube, thing, force)
        except Conflict as error:
            conflicts.append(error.message)
            continue
        if change:
            found.append(change)
    if conflicts:
        raise Conflict("; ".join(conflicts))
    wanted = {Ref.of(each) for each in objects}
    gone = [each for each in reversed(former) if Ref.of(each) not in wanted and _may_go(each)]
    return found + [Change("delete", ref) for ref in map(Ref.of, gone) if kube.get(ref) is not None]


def _change(kube: Kube, thing: Object, force: bool) -> Change | None:
    ref = Ref.of(thing)
    live, after = kube.get(ref), kube.apply(thing, dry_run=True, force=force)
    old, new = _masked(_declared(live or {}), _declared(after))
    if old == new:
        return None
    lines = difflib.unified_diff(_text(old), _text(new), lineterm="", n=2)
    body = tuple(line for line in lines if not line.startswith(("---", "+++")))
    return Change("change" if live else "create", ref, body)


def _may_go(thing: Object) -> bool:
    annotations = thing["metadata"].get("annotations") or {}
    return thing["kind"] not in _NEVER_DELETED and annotations.get(_KEEP) != "keep"


def _declared(thing: Object) -> Object:
    """An object without what the server writes into it."""
    rest = {k: v for k, v in thing.items() if k != "status"}
    if meta := rest.get("metadata"):
        kept = {k: v for k, v in meta.items() if k not in _OWN}
        annotations = dict(meta.get("annotations") or {})
        annotations.pop(_LAST_APPLIED, None)
        kept.pop("annotations", None)
        rest["metadata"] = {**kept, "annotations": annotations} if annotations else kept
    return rest


def _masked(old: Object, new: Object) -> tuple[Object, Object]:
    """Both without the values of secrets; one that changes still shows that it does."""
    if "Secret" not in (old.get("kind"), new.get("kind")):
        return old, new
    old, new = dict(old), dict(new)
    for part in ("data", "stringData"):
        before, after = old.get(part) or {}, new.get(part) or {}
        same = {key for key in before if before[key] == after.get(key)}
        for thing, values, word in ((old, before, "before"), (new, after, "after")):
            if values:
                thing[part] = {k: "***" if k in same else f"*** ({word})" for k in values}
    return old, new


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that a changed line is one line of the diff."""


def _block(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _block)


def _text(thing: Object) -> list[str]:
    dumped: Any = yaml.dump(thing, Dumper=_Dumper, sort_keys=True) if thing else ""
    return str(dumped).splitlines()
