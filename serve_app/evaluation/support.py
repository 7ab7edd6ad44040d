"""Faithfulness by rule: does the input say what an answer says?

Held against the input are an answer's figures, dates, times, codes and names, each after
normalisation: `EUR 1,234.50` is supported by "1 234,5 euro", `2026-07-03` by "3rd of July 2026" or
"3/7/26" (day first), `14:05` by "2.05 pm", `HR-104233` by "#104233", `Leila Berg` by "leila berg".
Names are words that begin with a capital. Words of the contract itself (headings, labels, choices)
are form or judgement and need no support, unless `spelled` says how the input would put them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH = rf"({'|'.join(_MONTHS)})[a-z]*\.?"
_NUMERALS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
).split()
_LETTERS = str.maketrans({"ø": "o", "æ": "ae", "đ": "d", "ł": "l"})

_ISO = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_NUMERIC = re.compile(r"\b(\d{1,2})[./-](\d{1,2})[./-](\d{4}|\d{2})\b")
_DAY_MONTH = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH},? (\d{{4}}|\d{{2}})\b")
_MONTH_DAY = re.compile(rf"\b{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}}|\d{{2}})\b")
_CLOCK = re.compile(r"\b(\d{1,2})[:.h](\d{2})(?:\s*([ap])\.?m\b|h)?\b")
_FIGURE = re.compile(r"\d{1,3}(?:[ .,]\d{3})+(?:[.,]\d{1,2})?(?!\d)|\d+(?:[.,]\d+)?")

_SAID_TIME = re.compile(r"\b(\d{2}):(\d{2})\b")
_SAID_CODE = re.compile(r"\b[A-Za-z]+-?(\d{3,})\b")
_SAID_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_SAID_NAME = re.compile(r"\b[^\W\d_][\w’'-]+")


@dataclass(frozen=True)
class Source:
    """What an input says, in normal form."""

    text: str

    @cached_property
    def folded(self) -> str:
        return fold(self.text)

    @cached_property
    def words(self) -> set[str]:
        return set(re.findall(r"[^\W_]+", self.folded))

    @cached_property
    def dates(self) -> set[tuple[int, int, int]]:
        """Year, month and day."""
        text = self.folded
        found = [(y, m, d) for y, m, d in _ISO.findall(text)]
        found += [
            (y, b, a) if int(b) <= 12 else (y, a, b)  # day first, where that can be
            for a, b, y in _NUMERIC.findall(text)
        ]
        found += [(y, _MONTHS.index(m) + 1, d) for d, m, y in _DAY_MONTH.findall(text)]
        found += [(y, _MONTHS.index(m) + 1, d) for m, d, y in _MONTH_DAY.findall(text)]
        return {(int(y) + (2000 if len(y) == 2 else 0), int(m), int(d)) for y, m, d in found}

    @cached_property
    def times(self) -> set[tuple[int, int]]:
        """Hour, of 24, and minute."""
        halves = {"": lambda h: h, "a": lambda h: h % 12, "p": lambda h: h % 12 + 12}
        return {(halves[half](int(h)), int(m)) for h, m, half in _CLOCK.findall(self.folded)}

    @cached_property
    def numbers(self) -> set[float]:
        found = {float(n) for n, word in enumerate(_NUMERALS) if word in self.words}
        for figure in _FIGURE.findall(self.text):
            found.update(_readings(figure))
        return found

    @cached_property
    def codes(self) -> set[str]:
        return set(re.findall(r"\d+", self.text))


class Support:
    """The rule, for answers of one form.

    Args:
        closed: Words that need no support, in any letter case.
        spelled: For a value that an input puts otherwise, the ways it does: `OSL` as "Oslo".
    """

    def __init__(self, closed: Collection[str], spelled: Mapping[str, Sequence[str]]) -> None:
        self._closed = {fold(word) for word in closed}
        self._spelled = {
            value: [fold(way) for way in (value, *ways)] for value, ways in spelled.items()
        }

    def unsupported(self, values: Iterable[str], source: Source) -> list[str]:
        """What the input does not say, of an answer's values."""
        return [part for value in values for part in self._missing(value, source)]

    def _missing(self, value: str, source: Source) -> Iterator[str]:
        if value in self._spelled:
            if not any(way in source.folded for way in self._spelled[value]):
                yield value
            return
        for match in _ISO.finditer(value):
            if tuple(map(int, match.groups())) not in source.dates:
                yield match.group()
        value = _ISO.sub(" ", value)
        for match in _SAID_TIME.finditer(value):
            if tuple(map(int, match.groups())) not in source.times:
                yield match.group()
        value = _SAID_TIME.sub(" ", value)
        for match in _SAID_CODE.finditer(value):
            if match.group(1) not in source.codes:
                yield match.group()
        value = _SAID_CODE.sub(" ", value)
        for figure in _SAID_NUMBER.findall(value):
            if float(figure.replace(",", "")) not in source.numbers:
                yield figure
        for name in _SAID_NAME.findall(value):
            if name[0].isupper() and not self._known(name, source):
                yield name

    def _known(self, name: str, source: Source) -> bool:
        parts = re.findall(r"[^\W_]+", fold(name))
        return all(part in self._closed or part in source.words for part in parts)


def fold(text: str) -> str:
    """Lower case without accents."""
    plain = unicodedata.normalize("NFKD", text.casefold().translate(_LETTERS))
    return "".join(each for each in plain if not unicodedata.combining(each))


def _readings(figure: str) -> Iterator[float]:
    """What a figure may mean: a separator stands before thousands or before decimals."""
    yield from (float(part) for part in re.split("[ .,]", figure) if part)
    digits = re.sub("[ .,]", "", figure)
    yield float(digits)
    last = re.search(r"[.,](\d+)$", figure)
    if last:
        yield float(f"{digits[: -len(last[1])]}.{last[1]}")
