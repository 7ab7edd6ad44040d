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

_NUMBER = re.compile(r"\d[\d,.]*")
_SENTENCE_END = re.compile(r"[.!?](\s|$)")
_QUANTITY = re.compile(
    r"\b(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty"
    r"|hundred|half|third|quarter|twice|double|triple|dozen|each|every|per|percent|times|more|less"
    r"|fewer|than|remaining|rest|left|total|altogether|average|ratio)\b"
)
_PART = re.compile(r"%|percent|/|half|third|quarter|ratio|twice|double")
_LINK = re.compile(
    r"\b(if|then|after|before|until|unless|while|because|although|instead|except|not|but|however"
    r"|without|least|most)\b"
)
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z][a-z]+")
_CLAUSE = re.compile(r",|;|\b(and|but|which|who)\b")


def buckets(pieces: Sequence[int]) -> npt.NDArray[np.int64]:
    """The hash buckets (each once) of a text's word pieces and of its pairs of neighbours.

    Hashing (Weinberger et al., 2009) keeps the heads' size independent of the vocabulary.
    """
    ids = np.asarray(pieces, dtype=np.uint32)
    single = ids[1:-1] * np.uint32(2654435761)
    pairs = (ids[:-1] * np.uint32(2654435761)) ^ (ids[1:] * np.uint32(40503) + np.uint32(40503))
    return np.unique(np.concatenate([single, pairs]) >> np.uint32(17)).astype(np.int64)


def cues(text: str) -> Floats:
    """Counts that go with multi-step work, on a log scale; one for each of `CUES`."""
    lower = text.lower()
    words = re.findall(r"\w+", lower)
    numbers = _NUMBER.findall(lower)
    counts = (
        len(words),
        len(_SENTENCE_END.findall(lower)) + 1,
        len(numbers),
        len(set(numbers)),
        len(_QUANTITY.findall(lower)),
        len(_PART.findall(lower)),
        len(_LINK.findall(lower)),
        len(set(_NAME.findall(text))),
        len(_CLAUSE.findall(lower)),
        len(text),
    )
    width = sum(map(len, words)) / len(words) / 10 if words else 0.0
    return np.array([*(math.log1p(count) for count in counts), width], dtype=np.float32)
