"""What answers consist of: by a contract, or by the form that all references share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from serve_app.expert.contracts import JsonContract

_SLOT = re.compile(r"(\w+)\[([^\]]*)\]")
_WHOLE = r"\w+\((?:\w+\[[^\]]*\](?:, \w+\[[^\]]*\])*)?\)"


class Form(Protocol):
    """As much of a contract as scoring needs."""

    @property
    def structured(self) -> dict[str, Any] | None: ...

    def violations(self, text: str) -> list[str]: ...

    def fields(self, text: str) -> dict[str, Any]: ...


class MeaningRepresentation:
    """`inform(name[Dirt], genres[racing, sport])`: an act with slots, as ViGGO has them."""

    @property
    def structured(self) -> dict[str, Any] | None:
        return {"regex": r"[a-z_]+\([a-z_]+\[[^\]\n]*\](, [a-z_]+\[[^\]\n]*\])*\)"}

    def violations(self, text: str) -> list[str]:
        return [] if re.fullmatch(_WHOLE, text.strip()) else ["it must look like act(slot[value])"]

    def fields(self, text: str) -> dict[str, Any]:
        """The act and every slot; several values of a slot in one order."""
        act = re.match(r"\s*(\w+)\(", text)
        found = {} if act is None else {"act": act[1]}
        for slot, value in _SLOT.findall(text):
            found[slot] = ", ".join(sorted(part.strip() for part in value.split(",")))
        return found


def guess(references: Sequence[str]) -> Form | None:
    """The form of right answers, if all of them share one that has fields."""
    representation = MeaningRepresentation()
    if not any(map(representation.violations, references)):
        return representation
    if all(map(_is_object, references)):
        return JsonContract(kind="json_schema", schema={"type": "object"})
    return None


def words(contract: Any) -> Iterator[str]:
    """Every word that a contract's own text holds; examples and descriptions are not its own."""
    match contract:
        case dict():
            for key, value in contract.items():
                if key not in ("example", "description"):
                    yield from words(value)
        case list():
            for value in contract:
                yield from words(value)
        case str():
            yield from re.findall(r"[^\W\d_]+", contract)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
