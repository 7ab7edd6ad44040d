"""Regular expressions that an operator writes. One that is slow on some text is given up in time.

The engine is `regex`, which can be stopped and lets other threads run while it searches.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import regex

_LEAST_S, _S_A_CHARACTER = 1.0, 2e-6


class TooSlow(Exception):
    """An expression took longer than it may."""


@dataclass(slots=True)
class Patience:
    """How long an expression may take for all texts of a call: a second, and more for long ones."""

    left_s: float = _LEAST_S


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
            flags = regex.IGNORECASE | regex.FULLCASE if ignore_case else 0
            return cls(regex.compile(source, flags))
        except regex.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None

    def found(self, text: str, patience: Patience) -> bool:
        """Whether it matches anywhere.

        Raises:
            TooSlow: It takes longer than it may.
        """
        return next(self._matches(text, patience), None) is not None

    def spans(self, text: str, patience: Patience) -> list[tuple[int, int]]:
        """Where it matches; nothing empty.

        Raises:
            TooSlow: It takes longer than it may.
        """
        return [span for span in self._matches(text, patience) if span[1] > span[0]]

    def _matches(self, text: str, patience: Patience) -> Iterator[tuple[int, int]]:
        patience.left_s += len(text) * _S_A_CHARACTER
        began, may_take_s = time.monotonic(), patience.left_s
        try:
            for match in self._pattern.finditer(text, concurrent=True, timeout=may_take_s):
                if time.monotonic() - began > may_take_s:
                    raise TooSlow
                yield match.span()
        except TimeoutError:
            raise TooSlow from None
        finally:
            patience.left_s = max(0.001, may_take_s - (time.monotonic() - began))
