"""What differs between two revisions of a release, object by object, secrets masked."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from serve_app.cluster.kube import Object, Ref


@dataclass(frozen=True)
class Change:
    """Of one object; `lines` are a unified diff without its header."""

    action: Literal["create", "change", "delete"]
    ref: Ref
    lines: tuple[str, ...] = ()


def changes(old: Sequence[Object], new: Sequence[Object]) -> list[Change]:
    """What becomes of one revision's objects in another, in the order of the new ones."""
    before = {Ref.of(each): each for each in old}
    after = {Ref.of(each): each for each in new}
    found = [_change(ref, before.get(ref), thing) for ref, thing in after.items()]
    gone = [Change("delete", ref) for ref in before if ref not in after]
    return [each for each in found if each] + gone


def _change(ref: Ref, old: Object | None, new: Object) -> Change | None:
    if old == new:
        return None
    before, after = _masked(old or {}, new)
    lines = difflib.unified_diff(_text(before), _text(after), lineterm="", n=2)
    body = tuple(line for line in lines if not line.startswith(("---", "+++")))
    return Change("change" if old else "create", ref, body)


def _masked(old: Object, new: Object) -> tuple[Object, Object]:
    """Both without the values of secrets; one that changes still shows that it does."""
    if new["kind"] != "Secret":
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
