"""Whether a JSON schema can be followed: it is one, it is of a sane size, and a finite value fits.

A schema without a finite value (an object that requires itself, bounds that contradict each other)
makes an engine that decodes by it write until its bound, or fail. What is found here is certain; a
schema whose contradiction is subtler passes.

Each subschema has a set of kinds of value (object, text, …) of which it has a finite one. The sets
are the least that satisfy the rules of `_Kinds`: all begin empty and grow until nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from serve_app.json_schema.keywords import Schema

MOST_DEPTH = 64
MOST_NODES = 5_000
_MOST_ROUNDS = 12
_MOST_STEPS = 200_000

_KINDS = {
    "object": 1,
    "array": 2,
    "string": 4,
    "integer": 8,
    "number": 8 | 16,  # 16: with a fraction
    "boolean": 32,
    "null": 64,
}
_ANY = 127


def check(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema.

    Raises:
        ValueError: It cannot be followed; the message says why, and where in it.
    """
    _bounded(schema)
    try:
        root = Schema.model_validate(schema)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "/".join(str(part) for part in first["loc"] if part not in ("Schema", "bool"))
        problem = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"is no JSON schema: at #/{place}: {problem}") from None
    if not _Kinds(root).of(root):
        raise ValueError(
            "no finite value fits it: look for a required property or item that holds the schema "
            "itself, and for bounds or types that contradict each other"
        )
    return schema


def _bounded(schema: dict[str, Any]) -> None:
    count = 0
    level: list[Any] = [schema]
    for _ in range(MOST_DEPTH + 1):
        inner: list[Any] = []
        for each in level:
            inner += each.values() if isinstance(each, dict) else each
        level = [each for each in inner if isinstance(each, dict | list)]
        count += len(level)
        if count > MOST_NODES:
            raise ValueError(f"has more than {MOST_NODES:,} objects and lists; simplify it")
        if not level:
            return
    raise ValueError(f"is nested more than {MOST_DEPTH} deep; move parts of it to $defs")


# A schema of these alone sets no bounds that have to be seen together with those of another.
_ALONE = frozenset({"ref", "defs", "definitions", "anchor", "type", "any_of", "one_of"})


class _Kinds:
    """The kinds of finite values that each subschema of one has.

    Raises:
        ValueError: A reference leads nowhere, or the schema is too entangled to tell.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._steps = 0
        self._anchors: dict[str, Schema] = {}
        self._order: list[Schema] = []
        self._targets: dict[int, Schema | bool] = {}
        self._known: dict[int, int] = {}
        self._walk()
        for _ in range(_MOST_ROUNDS):
            before = dict(self._known)
            for each in self._order:
                self._known[id(each)] = self._kinds(each)
            if self._known == before:
                return
        raise ValueError("refers to itself in too many ways; simplify it")

    def of(self, schema: Schema | bool) -> int:
        if isinstance(schema, bool):
            return _ANY if schema else 0
        return self._known[id(schema)]

    def _walk(self) -> None:
        """All subschemas, those that others are made of first."""
        everything, stack = [], [self._root]
        while stack:
            here = stack.pop()
            everything.append(here)
            if here.anchor:
                self._anchors[here.anchor] = here
            stack += [each for each in here.parts() if isinstance(each, Schema)]
        for each in everything:
            self._known[id(each)] = 0
            if each.ref is not None:
                self._targets[id(each)] = self._target(each.ref)
        seen: set[int] = set()
        todo: list[tuple[Schema, bool]] = [(each, False) for each in reversed(everything)]
        while todo:
            here, ready = todo.pop()
            if ready:
                self._order.append(here)
            elif id(here) not in seen:
                seen.add(id(here))
                todo.append((here, True))
                inner = [*here.parts(), self._targets.get(id(here), True)]
                todo += [(each, False) for each in inner if isinstance(each, Schema)]

    def _target(self, reference: str) -> Schema | bool:
        name = reference[1:]
        found = self._anchors.get(name) if name and "/" not in name else self._root.follow(name)
        if found is None:
            raise ValueError(f"is no JSON schema: {reference[:80]!r} leads nowhere in it")
        return found

    def _kinds(self, here: Schema) -> int:
        kinds = _ANY
        if here.type is not None:
            named = [here.type] if isinstance(here.type, str) else here.type
            kinds = _union(_KINDS[each] for each in named)
        if here.enum is not None:
            kinds &= _union(map(_kind, here.enum))
        if "const" in here.model_fields_set:
            kinds &= _kind(here.const)
        for each in (*here.all_of, self._targets.get(id(here), True)):
            kinds &= self.of(each)
        for choice in (here.any_of, here.one_of):
            if choice is not None:
                kinds &= _union(map(self.of, choice))
        if here.not_ is True or (isinstance(here.not_, Schema) and not here.not_.model_fields_set):
            return 0
        if not here.model_fields_set - _ALONE:
            return kinds
        together = self._together(here)
        possible = {
            1: self._object(together),
            2: self._array(together),
            4: _least(together, "min_length") <= _most(together, "max_length"),
            8: _integer(together),
            16: _bounds(together)[0] <= _bounds(together)[1],
        }
        return kinds & ~_union(kind for kind, can in possible.items() if not can)

    def _together(self, here: Schema) -> list[Schema]:
        """The schemas that a value of this one fits as well, itself among them."""
        found, stack, seen = [], [here], set()
        while stack:
            each = stack.pop()
            if id(each) in seen:
                continue
            seen.add(id(each))
            found.append(each)
            more = (*each.all_of, self._targets.get(id(each), True))
            stack += [one for one in more if isinstance(one, Schema)]
        self._count(len(found))
        return found

    def _object(self, together: list[Schema]) -> bool:
        required = {name for each in together for name in each.required}
        self._count(len(required) * len(together))
        least = max(_least(together, "min_properties"), len(required))
        if least > _most(together, "max_properties"):
            return False
        for each in together:
            closed = each.additional_properties is False and not each.pattern_properties
            if closed and least > sum(bool(self.of(one)) for one in each.properties.values()):
                return False
        return all(self._property(name, together) for name in required)

    def _property(self, name: str, together: list[Schema]) -> bool:
        kinds = _ANY
        for each in together:
            if name in each.properties:
                kinds &= self.of(each.properties[name])
            elif each.additional_properties is not None and not each.pattern_properties:
                kinds &= self.of(each.additional_properties)
        return bool(kinds)

    def _array(self, together: list[Schema]) -> bool:
        least = int(_least(together, "min_items"))
        if least > _most(together, "max_items"):
            return False
        for each in together:
            first = each.items if isinstance(each.items, list) else each.prefix_items
            rest = each.additional_items if isinstance(each.items, list) else each.items
            if not all(self.of(one) for one in first[:least]):
                return False
            if least > len(first) and rest is not None and not self.of(rest):
                return False
            if each.contains is not None and each.min_contains and not self.of(each.contains):
                return False
        return True

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise ValueError("is too large to be checked; simplify it")


def _union(kinds: Iterable[int]) -> int:
    found = 0
    for each in kinds:
        found |= each
    return found


def _kind(value: Any) -> int:
    match value:
        case None:
            return _KINDS["null"]
        case bool():
            return _KINDS["boolean"]
        case int():
            return _KINDS["integer"]
        case float():
            return 8 if value.is_integer() else 16
        case str():
            return _KINDS["string"]
        case list():
            return _KINDS["array"]
    return _KINDS["object"]


def _least(together: list[Schema], name: str) -> float:
    return max(float(getattr(each, name)) for each in together)


def _most(together: list[Schema], name: str) -> float:
    bounds = (getattr(each, name) for each in together)
    return min((float(each) for each in bounds if each is not None), default=math.inf)


def _bounds(together: list[Schema]) -> tuple[float, float]:
    low, high = -math.inf, math.inf
    for each in together:
        for bound in (each.minimum, each.exclusive_minimum):
            if bound is not None and not isinstance(bound, bool):
                low = max(low, bound)
        for bound in (each.maximum, each.exclusive_maximum):
            if bound is not None and not isinstance(bound, bool):
                high = min(high, bound)
    return low, high


def _integer(together: list[Schema]) -> bool:
    low, high = _bounds(together)
    if math.isinf(low) or math.isinf(high):
        return low <= high
    return math.ceil(low) <= math.floor(high)
