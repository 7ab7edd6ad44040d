"""What the heads read beside the encoder's layers: word pieces, and cues of multi-step work."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serve_app.router.encoder import Floats

BUCKETS = 1 << 15
CUES = (
    "words",
    "sentences",
    "numbers",
    "distinct numbers",
    "quantities",
    "parts of a whole",
    "links",
    "names",
    "clauses",
    "characters",
    "mean word length",
)

_32_BITS = (1 << 32) - 1
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d[\d,.]*")
_SENTENCE_END = re.compile(r"[.!?](\s|$)")
_QUANTITIES = frozenset(
    "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty "
    "hundred half third quarter twice double triple dozen each every per percent times more less "
    "fewer than remaining rest left total altogether average ratio".split()
)
_PART = re.compile(r"%|percent|/|half|third|quarter|ratio|twice|double")
_LINKS = frozenset(
    "if then after before until unless while because although instead except not but however "
    "without least most".split()
)
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z][a-z]+")
_CLAUSES = frozenset("and but which who".split())


def buckets(pieces: Sequence[int]) -> npt.NDArray[np.int64]:
    """The hash buckets (each once) of a text's word pieces and of its pairs of neighbours.

    Hashing (Weinberger et al., 2009) keeps the heads' size independent of the vocabulary.
    """
    # Texts are short: numpy would take longer.
    first = [(each * 2654435761) & _32_BITS for each in pieces]
    second = [(each * 40503 + 40503) & _32_BITS for each in pieces[1:]]
    found = {each >> 17 for each in first[1:-1]}
    found |= {(one ^ two) >> 17 for one, two in zip(first, second, strict=False)}
    return np.array(sorted(found), np.int64)


def cues(text: str) -> Floats:
    """Counts that go with multi-step work, on a log scale; one for each of `CUES`."""
    lower = text.lower()
    words = _WORD.findall(lower)
    numbers = _NUMBER.findall(lower)
    counts = (
        len(words),
        len(_SENTENCE_END.findall(lower)) + 1,
        len(numbers),
        len(set(numbers)),
        sum(map(_QUANTITIES.__contains__, words)),
        len(_PART.findall(lower)),
        sum(map(_LINKS.__contains__, words)),
        len(set(_NAME.findall(text))),
        sum(map(_CLAUSES.__contains__, words)) + lower.count(",") + lower.count(";"),
        len(text),
    )
    width = sum(map(len, words)) / len(words) / 10 if words else 0.0
    return np.array([*(math.log1p(count) for count in counts), width], dtype=np.float32)
