"""An embedder that needs no model: texts that share words are near each other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

DIMENSION = 64


class HashedWords:
    """A bag of hashed words.

    Attributes:
        embedded: All texts so far.
    """

    def __init__(self, dimension: int = DIMENSION) -> None:
        self.dimension = dimension
        self.window: int | None = None
        self.embedded: list[str] = []

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        self.embedded += texts
        return [self._vector(text) for text in texts]

    def queries(self, texts: Sequence[str]) -> list[list[float]]:
        return self(texts)

    def beside(self, query: str, texts: Sequence[str]) -> list[list[float]]:
        return self([query, *texts])

    def count(self, text: str) -> int:
        return len(text.split())

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self.dimension
        for word in text.lower().split():
            vector[hashlib.sha256(word.encode()).digest()[0] % self.dimension] += 1.0
        norm = math.sqrt(sum(x * x for x in vector)) or 1.0
        return [x / norm for x in vector]


class Models:
    """One model of each dimension that is asked for by name: `words-64`."""

    def __init__(self, default: str = f"words-{DIMENSION}") -> None:
        self.default = default
        self._made: dict[str, HashedWords] = {}

    def model(self, name: str) -> HashedWords:
        return self._made.setdefault(name, HashedWords(int(name.rpartition("-")[2])))
