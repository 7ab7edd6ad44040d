"""Rules over evidence: which chunks bear on a question, which sentences they support.

Deterministic on purpose: these run on every answer, and a rule that is enough is faster and
easier to argue with than a model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from zoneinfo import ZoneInfo

from serve_app.domain import Chunk, Citation
from serve_app.search_text import parted

# East Asian stops end a sentence without a blank, unless a bracket or quotation mark closes after.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(\[])|(?<=[。！？])(?![」』”’）])\s*|\n+")
_WORD = re.compile(r"[^\W_]+(?:[.,:'-][^\W_]+)*")
_STOP = frozenset(
    "a an and are as at be been by can did do does for from had has have how i if in is it its "
    "may me my no not of on or our out per shall should so some than that the their them then "
    "there these they this to up us was we were what when where which who will with would you "
    "your".split()
)
_JSON_VALUE = re.compile(
    r'"(?P<string>(?:[^"\\]|\\.)*+)"(?P<colon>\s*:)?|(?P<number>-?\d[\d.eE+-]*+)', re.DOTALL
)
_NUMBER = re.compile(r"\d[\d.,]*+")
_SUPPORT = 0.6
_SLOPE, _OFFSET = 8.76, 5.69


def sentences(text: str) -> list[str]:
    """Sentences of a text, in order, white space trimmed."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def words(text: str) -> set[str]:
    """Content words and numbers, lower case, plural `s` removed; of scripts that put no blanks
    between words, pairs of letters."""
    rest, pairs = (text, []) if text.isascii() else parted(text)
    found = (match.group().lower() for match in _WORD.finditer(rest))
    return {_stem(word) for word in found if word not in _STOP}.union(pairs)


def relevant(chunks: Sequence[Chunk], threshold: float) -> list[Chunk]:
    """Chunks that answer the query with at least this probability, in their order."""
    return [chunk for chunk in chunks if probability(chunk.relevance) >= threshold]


def probability(cosine: float) -> float:
    """That a chunk holds the answer, given its cosine with the question.

    Platt scaling (1999) of the embeddings that come along, on 160 questions about the demo
    company; `docs/lab-notes.md` says how good it is. Other embeddings need other numbers.
    """
    return 1 / (1 + math.exp(_OFFSET - _SLOPE * cosine))


class Sources:
    """Chunks, read once, and which of them supports what is claimed.

    Support means: every figure of the claim stands in the chunk, and so do at least 60 % of its
    content words.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = chunks
        self._words = [words(_whole(chunk)) for chunk in chunks]
        self._numbers = [_numbers(_whole(chunk)) for chunk in chunks]

    @cached_property
    def numbers(self) -> set[str]:
        """All that stand in one."""
        return set().union(*self._numbers)

    def supporter(self, claim: str) -> Chunk | None:
        """The chunk that supports a claim best, if one does."""
        claimed = words(claim)
        if not claimed:
            return None
        figures = {word for word in claimed if any(c.isdigit() for c in word)}
        best, best_share = None, 0.0
        for chunk, known in zip(self._chunks, self._words, strict=True):
            share = len(claimed & known) / len(claimed) if figures <= known else 0.0
            if share >= _SUPPORT and share > best_share:
                best, best_share = chunk, share
        return best

    def holder(self, value: str) -> Chunk | None:
        """Which chunk supports a value; a mere number is compared as one."""
        if value.strip("-+0123456789.,eE ") or not (asked := _numbers(value)):
            return self.supporter(value)
        pairs = zip(self._chunks, self._numbers, strict=True)
        return next((chunk for chunk, numbers in pairs if asked <= numbers), None)


def supporter(sentence: str, chunks: Sequence[Chunk]) -> Chunk | None:
    """The chunk that supports a sentence best, if one does; `Sources` is for many sentences."""
    return Sources(chunks).supporter(sentence)


def supported(text: str, chunks: Sequence[Chunk]) -> list[tuple[str, Chunk]]:
    """The sentences of a text that a chunk supports, each with that chunk."""
    sources = Sources(chunks)
    found = ((sentence, sources.supporter(sentence)) for sentence in sentences(text))
    return [(sentence, chunk) for sentence, chunk in found if chunk]


def cite(parts: Sequence[tuple[str, Chunk]]) -> tuple[str, tuple[Citation, ...]]:
    """Join supported sentences into one text whose citations say where each stands in it."""
    text, citations = "", []
    for sentence, chunk in parts:
        if text:
            text += " "
        citations.append(Citation(chunk, len(text), len(text) + len(sentence)))
        text += sentence
    return text, tuple(citations)


def dated(text: str, citations: Sequence[Citation], zone: ZoneInfo) -> str:
    """When the evidence of an answer was true, in words; empty when no chunk says, or the text."""
    moments = [moment for each in citations if (moment := _moment(each.chunk.as_of))]
    if not moments:
        return ""
    stamp = f"{min(moments).astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"
    return "" if stamp in text else f" (As of {stamp}.)"


def _moment(as_of: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(as_of or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def located(text: str, chunks: Sequence[Chunk]) -> tuple[Citation, ...]:
    """Citations for the sentences of a finished text that a chunk supports."""
    citations, cursor = [], 0
    sources = Sources(chunks)
    for sentence in sentences(text) if chunks else []:
        start = text.index(sentence, cursor)
        cursor = start + len(sentence)
        if chunk := sources.supporter(sentence):
            citations.append(Citation(chunk, start, cursor))
    return tuple(citations)


def of_json(text: str, chunks: Sequence[Chunk]) -> tuple[Citation, ...] | None:
    """Citations for the values in a JSON text that a chunk supports.

    `None` where it holds a figure that no chunk has, or claims something and none of it is
    supported. Of a text that was cut off, what there is counts.
    """
    values = [match for match in _JSON_VALUE.finditer(text) if not match["colon"]]
    sources = Sources(chunks)
    citations, claims = [], 0
    for match in values:
        group = "number" if match["number"] else "string"
        value = match["number"] or _unescaped(match["string"])
        if not _numbers(value) <= sources.numbers:
            return None
        claims += bool(words(value))
        if chunk := sources.holder(value):
            citations.append(Citation(chunk, match.start(group), match.end(group)))
    return None if claims and not citations else tuple(citations)


def _numbers(text: str) -> set[str]:
    """Numbers as they compare: without the commas of thousands and zeros behind the point."""
    found = (match[0].replace(",", "").rstrip(".") for match in _NUMBER.finditer(text))
    return {each.rstrip("0").rstrip(".") if "." in each else each for each in found}


def _unescaped(written: str) -> str:
    try:
        return str(json.loads(f'"{written}"'))
    except ValueError:
        return written


def _whole(chunk: Chunk) -> str:
    return f"{chunk.title} {chunk.heading} {chunk.text}"


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
