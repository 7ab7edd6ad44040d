"""Typed slots of a Markdown template: what may stand in each, as the engine can enforce it.

Every slot has a `pattern`: a regular expression in the dialect that vLLM's backends share (no look
around, no named groups). What the pattern leaves open, `problems` checks.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

Value = str | int | float | bool | None

# Above this, a counted repetition makes a grammar that takes seconds to compile.
MOST_COUNTED = 16

_LINE = r"\S(?:[^\n]*\S)?"
_PARAGRAPH_LINE = r"[^\s#](?:[^\n]*\S)?"  # a line with a # would be the next heading
_NUMBER = {True: r"[0-9]{1,3}(?:,[0-9]{3})*", False: r"[0-9]+"}
_DIRECTIVES = {
    "%Y": "[0-9]{4}",
    "%m": "(?:0[1-9]|1[0-2])",
    "%d": "(?:0[1-9]|[12][0-9]|3[01])",
    "%H": "(?:[01][0-9]|2[0-3])",
    "%M": "[0-5][0-9]",
    "%B": "(?:January|February|March|April|May|June|July|August|September|October|November"
    "|December)",
    "%b": "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)",
    "%A": "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)",
}


class Section(BaseModel):
    """Base of every part of a contract file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Slot(Section):
    """Base of the slots."""

    @property
    def pattern(self) -> str:
        """What the engine lets through."""
        raise NotImplementedError

    @property
    def complete(self) -> bool:
        """Whether whatever has the pattern is right."""
        return True

    @property
    def wanted(self) -> str:
        """In plain words, after "must be"."""
        raise NotImplementedError

    def problems(self, text: str) -> list[str]:
        """What is wrong with a text that has the pattern; each follows the slot's name."""
        return []

    def value(self, text: str) -> Value:
        return text


class Text(Slot):
    """Words on one line."""

    type: Literal["text"] = "text"
    max_words: int | None = Field(default=None, ge=1)

    @property
    def pattern(self) -> str:
        return _LINE

    @property
    def complete(self) -> bool:
        return self.max_words is None

    @property
    def wanted(self) -> str:
        return "text on one line"

    def problems(self, text: str) -> list[str]:
        return _too_long(text, self.max_words)


class Paragraphs(Slot):
    """Words on one or more lines, none of which is a heading; blank lines may lie between."""

    type: Literal["paragraphs"]
    max_words: int | None = Field(default=None, ge=1)
    max_sentences: int | None = Field(default=None, ge=1)

    @property
    def pattern(self) -> str:
        return rf"{_PARAGRAPH_LINE}(?:\n\n?{_PARAGRAPH_LINE})*"

    @property
    def complete(self) -> bool:
        return self.max_words is None and self.max_sentences is None

    @property
    def wanted(self) -> str:
        return "one or more lines of text"

    def problems(self, text: str) -> list[str]:
        found = _too_long(text, self.max_words)
        sentences = len(re.findall(r"[.!?](?=\s|$)", text)) or 1
        if self.max_sentences and sentences > self.max_sentences:
            found.append(f"has {sentences} sentences, and at most {self.max_sentences} are allowed")
        return found


class Date(Slot):
    """A moment written as `strptime` reads it; only directives of fixed width and names."""

    type: Literal["date"]
    format: str = "%Y-%m-%d"

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        unknown = set(re.findall("%.", value)) - set(_DIRECTIVES)
        if unknown or "%" not in value:
            raise ValueError(f"may use {' '.join(_DIRECTIVES)}, and must use one")
        return value

    @property
    def pattern(self) -> str:
        parts = re.split("(%.)", self.format)
        return "".join(_DIRECTIVES.get(part, literal(part)) for part in parts)

    @property
    def complete(self) -> bool:
        return False  # the pattern allows 31 February

    @property
    def wanted(self) -> str:
        return f"a date like {datetime(2026, 7, 3, 14, 5).strftime(self.format)}"

    def problems(self, text: str) -> list[str]:
        try:
            datetime.strptime(text, self.format)
        except ValueError:
            return [f"is {text}, which is no date of the calendar"]
        return []


class Money(Slot):
    """`EUR 1,234.50`."""

    type: Literal["money"]
    currency: str = "EUR"
    decimals: int = Field(default=2, ge=0, le=4)

    @property
    def pattern(self) -> str:
        return rf"{literal(self.currency)} -?{_NUMBER[True]}{_decimals(self.decimals)}"

    @property
    def wanted(self) -> str:
        return f"an amount like {self.currency} {1234.5:,.{self.decimals}f}"

    def value(self, text: str) -> Value:
        return float(text.replace(self.currency, "").replace(",", "").replace(" ", ""))


class Integer(Slot):
    """A whole number."""

    type: Literal["integer"]
    min: int | None = None
    max: int | None = None
    thousands: bool = False

    @property
    def pattern(self) -> str:
        return ("" if self.min is not None and self.min >= 0 else "-?") + _NUMBER[self.thousands]

    @property
    def complete(self) -> bool:
        return self.min in (None, 0) and self.max is None

    @property
    def wanted(self) -> str:
        return f"a whole number like {1310:,}" if self.thousands else "a whole number"

    def problems(self, text: str) -> list[str]:
        number = self.value(text)
        low = self.min is not None and number < self.min
        high = self.max is not None and number > self.max
        return [f"is {text}, and must be {self._range}"] if low or high else []

    @property
    def _range(self) -> str:
        parts = [f"at least {self.min}"] if self.min is not None else []
        return " and ".join([*parts, *([f"at most {self.max}"] if self.max is not None else [])])

    def value(self, text: str) -> int:
        return int(text.replace(",", ""))


class Number(Slot):
    """A number with a fixed count of decimals; `signed` wants a + or - before it."""

    type: Literal["number"]
    decimals: int = Field(default=1, ge=1, le=6)
    thousands: bool = False
    signed: bool = False

    @property
    def pattern(self) -> str:
        sign = "[+-]" if self.signed else "-?"
        return sign + _NUMBER[self.thousands] + _decimals(self.decimals)

    @property
    def wanted(self) -> str:
        sign = "+" if self.signed else ""
        return f"a number like {sign}{5.25:.{self.decimals}f}"

    def value(self, text: str) -> Value:
        return float(text.replace(",", ""))


class Choice(Slot):
    """One of a few words."""

    type: Literal["enum"]
    values: tuple[str, ...] = Field(min_length=1)

    @property
    def pattern(self) -> str:
        # Longest first: Python takes the first that fits, and `Low` begins `Lowest`.
        ordered = sorted(self.values, key=len, reverse=True)
        return f"(?:{'|'.join(map(literal, ordered))})"

    @property
    def wanted(self) -> str:
        return f"one of {', '.join(self.values)}"


class Pattern(Slot):
    """Whatever fits a regular expression, such as an order number."""

    type: Literal["pattern"]
    pattern_: str = Field(alias="pattern")
    example: str

    @model_validator(mode="after")
    def _plain(self) -> Pattern:
        if not enforceable(self.pattern_):
            raise ValueError("pattern: no look around, references or word boundaries")
        if not re.fullmatch(self.pattern_, self.example, re.ASCII) or "\n" in self.example:
            raise ValueError("example does not fit the pattern, or has more than one line")
        return self

    @property
    def pattern(self) -> str:
        return f"(?:{self.pattern_})"

    @property
    def wanted(self) -> str:
        return f"like {self.example}"


Simple = Annotated[
    Text | Paragraphs | Date | Money | Integer | Number | Choice | Pattern,
    Field(discriminator="type"),
]
SIMPLE: TypeAdapter[Simple] = TypeAdapter(Simple)


def typed(value: Any) -> Any:
    """`date` is short for `{type: date}`."""
    return {"type": value} if isinstance(value, str) else value


def literal(text: str) -> str:
    """A text as a regular expression, without escapes that some engines do not know."""
    return re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", text).replace("\n", r"\n")


# Named groups are only names: they are taken off before the engine sees a pattern.
_BEYOND = re.compile(r"\(\?(?!:|P<)|\\[1-9bBAZ]|[*+?}]\+")


def enforceable(pattern: str) -> bool:
    """Whether an engine can follow a regular expression. Raises `ValueError` if it is none."""
    try:
        re.compile(pattern, re.ASCII)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    return not _BEYOND.search(pattern)


def unnamed(pattern: str) -> str:
    """The same without group names, which vLLM's backends do not know."""
    return re.sub(r"\(\?P<\w+>", "(?:", pattern)


def _decimals(count: int) -> str:
    return rf"\.[0-9]{{{count}}}" if count else ""


def _too_long(text: str, most: int | None) -> list[str]:
    words = len(text.split())
    return [f"has {words} words, and at most {most} are allowed"] if most and words > most else []
