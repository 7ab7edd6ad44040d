"""Stop sequences and bounds on tokens, kept by rule where no engine keeps them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from serve_app.domain import FinishReason

# Rather more tokens than a tokenizer makes: four letters of English are one, and whatever else has
# as many as it has bytes, which no tokenizer exceeds.
_TOKEN = re.compile(r"\s*(?:[A-Za-z]{1,4}|\S)|\s+")


class Stop:
    """A text that comes in pieces, ended at a stop sequence or a bound.

    Args:
        sequences: The first of them to come ends the text, and is not part of it.
        max_tokens: Most tokens, counted by an estimate that is rather too high; `None` for any.

    Attributes:
        reason: Why it ended; `None` while it has not.
    """

    def __init__(self, sequences: Sequence[str] = (), max_tokens: int | None = None) -> None:
        self._sequences = [each for each in sequences if each]
        self._left = max_tokens
        self._held = ""
        self.reason: FinishReason | None = None

    def piece(self, text: str) -> str:
        """What is sure by now: what may be the beginning of a stop sequence waits for the next."""
        if self.reason:
            return ""
        if not self._sequences:
            return self._bounded(text)
        said, self._held = self._held + text, ""
        ends = [at for each in self._sequences if (at := said.find(each)) >= 0]
        if ends:
            self.reason = "stop"
            return self._bounded(said[: min(ends)])
        held = self._begun(said)
        self._held = said[len(said) - held :]
        return self._bounded(said[: len(said) - held])

    def rest(self) -> str:
        """What was still waiting when the text ended."""
        held, self._held = self._held, ""
        return self._bounded(held)

    def whole(self, text: str) -> str:
        """A text that is there at once, ended."""
        return self.piece(text) + self.rest()

    def _begun(self, said: str) -> int:
        """How many characters at the end may be the beginning of a stop sequence."""
        longest = max(map(len, self._sequences)) - 1
        for length in range(min(longest, len(said)), 0, -1):
            tail = said[-length:]
            if any(each.startswith(tail) for each in self._sequences):
                return length
        return 0

    def _bounded(self, text: str) -> str:
        if self._left is None or self.reason == "length":
            return "" if self.reason == "length" else text
        for token in _TOKEN.finditer(text):
            self._left -= _tokens(token[0])
            if self._left < 0:
                self.reason = "length"
                return text[: token.start()]
        return text


def _tokens(piece: str) -> int:
    """Of a piece that `_TOKEN` found."""
    return max(1, len(piece.strip().encode())) if not piece.isascii() else 1
