"""Pins: roads that some texts may not take, and how they are found in what a call carries.

A pin's expression is searched in every text of a call: turns of all roles, tool calls and their
arguments, and options such as the descriptions of tools. No text is shortened. Each is read as it
is written and as a reader would see it: without invisible characters, in Unicode's compatible form
(NFKC), white space as one blank, and with the escapes of JSON, HTML and URLs resolved.
"""

from __future__ import annotations

import asyncio
import contextlib
import html.entities
import json
import logging
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import unquote

import regex
from pydantic import BaseModel, ConfigDict, Field, field_validator

from serve_app.domain import Generation, Image, Message, Route
from serve_app.expressions import Expression, Patience, TooSlow

log = logging.getLogger(__name__)

_INVISIBLE = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}\x00-\x08\x0e-\x1b\x7f]+")
_MARKS = regex.compile(r"\p{M}{30}")
_ESCAPE = re.compile(
    r"\\u(?P<unit>[0-9a-fA-F]{4})|\\(?P<short>[\"\\/bfnrt])|(?P<url>(?:%[0-9a-fA-F]{2})+)"
    r"|&(?P<html>\#[0-9]{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
)
_NESTED = 3  # an escape may be escaped: JSON in JSON


class Pin(BaseModel):
    """Roads that some queries may not take. All conditions given must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    never: frozenset[Route] = Field(min_length=1)
    intents: frozenset[str] = frozenset()
    above: float = Field(default=0.3, ge=0, le=1)
    matches: str | None = None

    @field_validator("never")
    @classmethod
    def _leaves_one(cls, never: frozenset[Route]) -> frozenset[Route]:
        if never == set(Route):
            raise ValueError("would leave no road at all")
        return never

    @field_validator("matches")
    @classmethod
    def _compiles(cls, matches: str | None) -> str | None:
        _expressions(matches or "")
        return matches

    def intended(self, fit: Mapping[str, float]) -> bool:
        """Whether a turn has its intents, by the share of each."""
        return sum(fit.get(intent, 0.0) for intent in self.intents) >= self.above

    def holds(self, matched: Collection[str], intended: Collection[str] | None) -> bool:
        """Whether it forbids its roads.

        Args:
            matched: Names of the pins whose expression was found.
            intended: Names of the pins whose intents were; `None` if nobody looked: then all were.
        """
        by_text = not self.matches or self.name in matched
        by_intent = not self.intents or intended is None or self.name in intended
        return by_text and by_intent


class Pins(BaseModel):
    """Everybody's, and those that tenants have on top."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    everybody: tuple[Pin, ...] = ()
    tenants: dict[str, tuple[Pin, ...]] = {}

    def of(self, tenant: str) -> tuple[Pin, ...]:
        return self.everybody + self.tenants.get(tenant, ())

    def forbidding(self, road: Route) -> Pins:
        """Those alone that forbid a road."""

        def kept(pins: Iterable[Pin]) -> tuple[Pin, ...]:
            return tuple(pin for pin in pins if road in pin.never)

        own = {tenant: kept(pins) for tenant, pins in self.tenants.items()}
        return Pins(everybody=kept(self.everybody), tenants={t: p for t, p in own.items() if p})


async def matched(pins: Sequence[Pin], texts: Iterable[str]) -> frozenset[str]:
    """The names of the pins whose expression is found in one of the texts; see `find`."""
    if not any(pin.matches for pin in pins):
        return frozenset()  # without a thread
    return await asyncio.to_thread(find, pins, list(texts))


def find(pins: Sequence[Pin], texts: Sequence[str]) -> frozenset[str]:
    """The names of the pins whose expression is found in one of the texts.

    One that takes too long counts as found: what could not be checked may not leave.
    """
    sought = {pin.name: _expressions(pin.matches) for pin in pins if pin.matches}
    if not sought:
        return frozenset()
    patience = {name: Patience() for name in sought}
    found: set[str] = set()
    for text in dict.fromkeys(texts):
        for reading in readings(text):
            for name in sought.keys() - found:
                try:
                    hit = any(each.found(reading, patience[name]) for each in sought[name])
                except TooSlow:
                    log.warning("the expression of pin %r takes too long: it counts as found", name)
                    hit = True
                if hit:
                    found.add(name)
        if found == sought.keys():
            break
    return frozenset(found)


def readings(text: str) -> tuple[str, ...]:
    """A text as it is written, and in the other ways in which it may be read."""
    visible = _INVISIBLE.sub("", text)
    ways = (text, visible, _plain(visible), _plain(_INVISIBLE.sub("", _unescaped(text))))
    return tuple(dict.fromkeys(ways))


def carried(generation: Generation) -> list[str]:
    """Every text that a call would take to a model. Pictures are not read."""
    return [*said(generation.messages), *_within(generation.options)]


def said(messages: Iterable[Message]) -> Iterator[str]:
    """Every text of some turns. Parts of one turn are also read as one, with and without a gap."""
    for message in messages:
        yield message.content
        if message.parts:
            parts = [part for part in message.parts if isinstance(part, str)]
            yield "".join(parts)
            yield "\n".join(parts)
        for part in message.parts:
            if isinstance(part, Image) and not part.url.startswith("data:"):
                yield part.url
        for call in message.tool_calls:
            yield from (call.id, call.name, call.arguments)
            with contextlib.suppress(ValueError, RecursionError):  # it has been read as it is
                yield from _within(json.loads(call.arguments))
        yield message.tool_call_id


def _within(value: Any) -> Iterator[str]:
    """Every text and number in nested data, names of fields included."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                yield text
            case bool() | None:
                pass
            case int() | float() as number:
                with contextlib.suppress(ValueError):  # thousands of digits are no name
                    yield f"{number}"
            case Mapping() as fields:
                yield from map(str, fields)
                waiting.extend(fields.values())
            case list() | tuple() as items:
                waiting.extend(items)


@cache
def _expressions(source: str) -> tuple[Expression, ...]:
    """An expression as it is written and, as texts are read so too, with its letters composed."""
    sources = dict.fromkeys((source, unicodedata.normalize("NFC", source)))
    return tuple(Expression.of(each, ignore_case=True) for each in sources)


def _plain(text: str) -> str:
    # Normalising sorts each run of marks, in quadratic time: none is longer than Unicode's
    # stream-safe text has them (UAX #15).
    folded = unicodedata.normalize("NFKC", _MARKS.sub("\\g<0>\u034f", text))
    return " ".join(_INVISIBLE.sub("", folded).split())


def _unescaped(text: str) -> str:
    for _ in range(_NESTED):
        resolved = _ESCAPE.sub(_resolved, text)
        if resolved == text:
            break
        text = resolved
    # Two halves of a surrogate pair are one character.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _resolved(match: re.Match[str]) -> str:
    if unit := match["unit"]:
        return chr(int(unit, 16))
    if short := match["short"]:
        return " " if short in "bfnrt" else short
    if url := match["url"]:
        return unquote(url)
    name = match["html"]
    if not name.startswith("#"):
        return html.entities.html5.get(f"{name};", match[0])
    code = int(name[2:], 16) if name[1] in "xX" else int(name[1:])
    return chr(code) if code < 0x110000 else match[0]
