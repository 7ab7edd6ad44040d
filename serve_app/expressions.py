"""Regular expressions that an operator writes. One that is slow on some text is given up in time.

The engine is `regex`, which can be stopped and lets other threads run while it searches.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import regex

_LEAST_S, _S_A_CHARACTER = 1.0, 1e-6


class TooSlow(Exception):
    """An expression took longer than it may."""


def until(characters: int) -> float:
    """When searches in a text of this length, begun now, are given up; on the monotonic clock."""
    return time.monotonic() + _LEAST_S + characters * _S_A_CHARACTER


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled one."""

    _pattern: Any

    @classmethod
    def of(cls, source: str, *, ignore_case: bool = False) -> Expression:
        """Compile an expression.

        Raises:
            ValueError: It is none; says why.
        """
        try:
            # Full case folding: ß is SS in capitals.
            flags = regex.IGNORECASE | regex.FULLCASE if ignore_case else regex.NOFLAG
            return cls(regex.compile(source, flags))
        except regex.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None

    def found(self, text: str, until: float) -> bool:
        """Whether it matches anywhere.

        Raises:
            TooSlow: Nobody knows by `until`.
        """
        try:
            left = until - time.monotonic()
            if left <= 0:
                raise TooSlow
            return self._pattern.search(text, concurrent=True, timeout=left) is not None
        except TimeoutError:
            raise TooSlow from None

    def spans(self, text: str, until: float) -> Iterator[tuple[int, int]]:
        """Where it matches; nothing empty.

        Raises:
            TooSlow: It is not done by `until`.
        """
        try:
            left = until - time.monotonic()
            if left <= 0:
                raise TooSlow
            for match in self._pattern.finditer(text, concurrent=True, timeout=left):
                if match.end() > match.start():
                    yield match.span()
                if time.monotonic() > until:
                    raise TooSlow
        except TimeoutError:
            raise TooSlow from None
