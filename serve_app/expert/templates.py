"""A Markdown template: fixed words with typed slots in braces, and texts held against it.

    # Weekly report, week {week}, {team}

    ## Risks

    {risks}

`{{` and `}}` stand for braces. Blank space at the end of a text does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from serve_app.expert.slots import (
    MOST_COUNTED,
    Section,
    Simple,
    Slot,
    Text,
    Value,
    literal,
    typed,
)

Fields = dict[str, Value]


class _Line:
    """The parts of a template in turn, slots by name: `("fixed", None)`, `("", "slot")`."""

    def __init__(self, template: str, slots: Mapping[str, Slot]) -> None:
        self.slots = {
            name: slots.get(name, Text()) for _, name in _parts(template) if name is not None
        }
        self.parts = _parts(template)

    @property
    def engine(self) -> str:
        return "".join(
            self.slots[name].pattern if name else literal(fixed) for fixed, name in self.parts
        )

    @property
    def fixed(self) -> str:
        return "".join(fixed for fixed, _ in self.parts)

    @cached_property
    def named(self) -> list[str]:
        """Each part's pattern, slots as groups."""
        return [
            f"(?P<{name}>{self.slots[name].pattern})" if name else literal(fixed)
            for fixed, name in self.parts
        ]

    def match(self, text: str) -> re.Match[str] | None:
        return re.fullmatch("".join(self.named), text, re.ASCII)

    def problems(self, found: Mapping[str, str]) -> list[str]:
        return [
            f"{name} {problem}"
            for name, text in found.items()
            for problem in self.slots[name].problems(text)
        ]


class ListOf(Slot):
    """Lines that all look like `item`, a template of one line with slots of its own.

    Attributes:
        empty: The line that stands there instead when there is nothing to list.
    """

    type: Literal["list"]
    item: str = "- {item}"
    slots: dict[str, Annotated[Simple, BeforeValidator(typed)]] = Field(default_factory=dict)
    min: int = Field(default=1, ge=1)
    max: int | None = Field(default=None, ge=1)
    empty: str | None = None

    @model_validator(mode="after")
    def _sound(self) -> ListOf:
        if "\n" in self.item:
            raise ValueError("item must be one line")
        _check(self.item, self.slots)
        if self.max is not None and self.max < self.min:
            raise ValueError("max is below min")
        if any(slot.type == "paragraphs" for slot in self.slots.values()):
            raise ValueError("an item is one line: use text instead of paragraphs")
        return self

    @cached_property
    def _line(self) -> _Line:
        return _Line(self.item, self.slots)

    @property
    def pattern(self) -> str:
        item = self._line.engine
        counted = max(self.min, self.max or 0) <= MOST_COUNTED
        count = f"{{{self.min - 1},{self.max - 1 if self.max else ''}}}" if counted else "*"
        several = rf"{item}(?:\n{item}){count}"
        return f"(?:{several}|{literal(self.empty)})" if self.empty else several

    @property
    def complete(self) -> bool:
        counted = max(self.min, self.max or 0) <= MOST_COUNTED
        return counted and all(slot.complete for slot in self._line.slots.values())

    @property
    def wanted(self) -> str:
        most = f" to {self.max}" if self.max else " or more"
        alone = f", or “{self.empty}”" if self.empty else ""
        return f"{self.min}{most} lines like “{self.item}”{alone}"

    def problems(self, text: str) -> list[str]:
        if text == self.empty:
            return []
        lines = text.split("\n")
        found = []
        if len(lines) < self.min:
            found.append(f"has {len(lines)} items, and at least {self.min} are wanted")
        if self.max is not None and len(lines) > self.max:
            found.append(f"has {len(lines)} items, and at most {self.max} are allowed")
        for number, line in enumerate(lines, start=1):
            match = self._line.match(line)
            of_line = self._line.problems(match.groupdict()) if match else [f"is {_short(line)}"]
            found += [f"item {number}: {problem}" for problem in of_line]
        return found

    def fields(self, text: str) -> Iterator[tuple[str, Value]]:
        """`[0].owner` and so on; `[0]` alone where an item has one slot."""
        if text == self.empty:
            return
        for number, line in enumerate(text.split("\n")):
            if match := self._line.match(line):
                for name, part in match.groupdict().items():
                    key = f"[{number}]" + (f".{name}" if len(self._line.slots) > 1 else "")
                    yield key, self._line.slots[name].value(part)


AnySlot = Annotated[
    Annotated[Simple, Field(discriminator="type")] | ListOf, Field(discriminator="type")
]


class Template(Section):
    """A document kind. Slots that `slots` does not type are text on one line."""

    kind: Literal["markdown"]
    template: str
    slots: dict[str, Annotated[AnySlot, BeforeValidator(typed)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sound(self) -> Template:
        _check(self.template, self.slots)
        return self

    @cached_property
    def _whole(self) -> _Line:
        return _Line(self.template.strip(), self.slots)

    @property
    def engine(self) -> dict[str, Any]:
        return {"regex": self._whole.engine}

    @property
    def complete(self) -> bool:
        return all(slot.complete for slot in self._whole.slots.values())

    def violations(self, text: str) -> list[str]:
        text = text.rstrip()
        if match := self._whole.match(text):
            return self._whole.problems(match.groupdict())
        lines = {line.rstrip() for line in text.split("\n")}
        wanted = [line.fixed for line in self._lines if line.fixed and not line.slots]
        missing = [f"the line “{line}” is missing" for line in wanted if line not in lines]
        return missing or [self._break(text)]

    def fields(self, text: str) -> Fields:
        """The slots of a text; of one that leaves the template, those that stand in their place."""
        text = text.rstrip()
        match = self._whole.match(text)
        found = match.groupdict() if match else dict(self._salvaged(text))
        fields: Fields = {}
        for name, part in found.items():
            slot = self._whole.slots[name]
            if isinstance(slot, ListOf):
                fields |= {f"{name}{key}": value for key, value in slot.fields(part)}
            else:
                fields[name] = slot.value(part)
        return fields

    @cached_property
    def _lines(self) -> list[_Line]:
        return [_Line(line.rstrip(), self.slots) for line in self.template.strip().split("\n")]

    def _break(self, text: str) -> str:
        """Where a text leaves the template: the longest beginning of it that fits."""
        named, end, fits = self._whole.named, 0, 0
        for count in range(len(named), 0, -1):
            if match := re.match("".join(named[:count]), text, re.ASCII):
                end, fits = match.end(), count
                break
        rest = text[end:].lstrip("\n")
        if fits == len(named):
            return f"nothing may follow the end of the document, and there is {_short(rest)}"
        fixed, name = self._whole.parts[fits]
        wanted = f"{name}, {self._whole.slots[name].wanted}," if name else f"“{fixed.strip()}”"
        after = _short(text[:end].rstrip().rpartition("\n")[2])
        place = f"after {after}" if after != _NOTHING else "at the beginning"
        return f"{place} {wanted} must follow, and there is {_short(rest)}"

    def _salvaged(self, text: str) -> Iterator[tuple[str, str]]:
        """Slots found by the fixed words beside or above them, wherever those stand."""
        for number, line in enumerate(self._lines):
            if not line.slots:
                continue
            above = number
            while not line.fixed.strip() and above and not self._lines[above].fixed.strip():
                above -= 1
            label = r"\n".join([*(each.engine for each in self._lines[above:number]), ""])
            sought = f"^{label}{''.join(line.named)}\\s*$"
            if match := re.search(sought, text, re.ASCII | re.MULTILINE):
                yield from match.groupdict().items()


def _parts(template: str) -> list[tuple[str, str | None]]:
    """Fixed text and names of slots in turn; raises `ValueError` for a brace on its own."""
    parts: list[tuple[str, str | None]] = []
    fixed = ""
    for piece in re.split(r"(\{\{|\}\}|\{[a-z][a-z0-9_]*\})", template):
        if piece in ("{{", "}}"):
            fixed += piece[0]
        elif re.fullmatch(r"\{[a-z][a-z0-9_]*\}", piece):
            parts += [(fixed, None)] if fixed else []
            parts.append(("", piece[1:-1]))
            fixed = ""
        elif "{" in piece or "}" in piece:
            raise ValueError(
                f"a brace near {_short(piece)} is neither a slot like {{name}} nor doubled"
            )
        else:
            fixed += piece
    return [*parts, (fixed, None)] if fixed else parts


def _check(template: str, slots: Mapping[str, Any]) -> None:
    names = [name for _, name in _parts(template.strip()) if name]
    if not names:
        raise ValueError("the template has no slot like {name}")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))} stands there twice")
    if unused := set(slots) - set(names):
        raise ValueError(f"slots: {', '.join(sorted(unused))} is not in the template")


_NOTHING = "nothing"


def _short(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return (f"“{line[:60]}…”" if len(line) > 60 else f"“{line}”") if line else _NOTHING
