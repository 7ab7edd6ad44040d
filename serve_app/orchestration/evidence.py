"""Rules over evidence: which chunks bear on a question, which sentences they support.

Deterministic on purpose: these run on every answer, and a rule that is enough is faster and
easier to argue with than a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from zoneinfo import ZoneInfo

from serve_app.domain import Chunk, Citation
from serve_app.orchestration.sentences import sentences
from serve_app.search_text import parted

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
_ALIKE = 0.8
_NEGATION = re.compile(
    r"\b(?:not|no(?!\.?\s*\d)|never|none|nobody|nothing|neither|nor|cannot|without|\w+n['\u2019]t"
    r"|nicht|kein\w*|niemals|ohne|pas|jamais|aucune?|nunca|ning[uú]n\w*"
    r"|n[aã]o|niet|geen|ikke|ingen|aldri|aldrig|inte|inga)\b",
    re.IGNORECASE,
)
_NEGATIONS = frozenset(
    "not never none nobody nothing neither nor cannot without nicht kein keine keinen niemals ohne "
    "ne pas jamais nunca não nao niet geen ikke ingen aldri aldrig inte inga can't don't".split()
)
# What makes a negation hold in part, or say something else than that it is not so.
_IN_PART = re.compile(
    r"\b(?:unless|except|other than|only|until|before|but|more|less|later|longer|exceed\w*|fail"
    r"|hesitate|außer|nur|aber|sauf|seulement|mais|salvo|solo|pero|alleen|maar|kun|men|bare|bara)\b",
    re.IGNORECASE,
)


def words(text: str) -> set[str]:
    """Content words and numbers, lower case, plural `s` removed; of scripts that put no blanks
    between words, pairs of letters."""
    rest, pairs = (text, []) if text.isascii() else parted(text)
    found = (match.group().lower() for match in _WORD.finditer(rest))
    return {_stem(word) for word in found if word not in _STOP}.union(pairs)


class Sources:
    """Chunks, read once, and which of them supports what is claimed.

    Support means: every figure of the claim stands in the chunk, and so do at least 60 % of its
    content words.

    Attributes:
        chunks: In the order that a model is told them in.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = chunks
        self._read: dict[str, list[tuple[set[str], bool]]] = {}

    @cached_property
    def _words(self) -> list[set[str]]:
        return [words(_whole(chunk)) for chunk in self.chunks]

    @cached_property
    def _numbers(self) -> list[set[str]]:
        return [figures_of(_whole(chunk)) for chunk in self.chunks]

    @cached_property
    def numbers(self) -> set[str]:
        """All that stand in one."""
        return set().union(*self._numbers)

    def supporter(self, claim: str, among: Sequence[int] = ()) -> Chunk | None:
        """The chunk that supports a claim best, if one does.

        Args:
            among: Places of chunks; where one of them supports it, it is that one.
        """
        claimed = words(claim)
        if not claimed:
            return None
        figures = {word for word in claimed if any(c.isdigit() for c in word)}
        shares = [
            len(claimed & known) / len(claimed) if figures <= known else 0.0
            for known in self._words
        ]
        for places in (among, range(len(shares))):
            best = max(places, key=shares.__getitem__, default=None)
            if best is not None and shares[best] >= _SUPPORT:
                return self.chunks[best]
        return None

    def denier(self, claim: str) -> Chunk | None:
        """The chunk that says a claim is not so, if one does and none says that it is.

        Its sentence has the claim's words, and either holds a word of negation and the other none.
        Where there is an exception, or words differ, nobody can tell by rule.
        """
        claimed, negated = words(claim) - _NEGATIONS, bool(_NEGATION.search(claim))
        if _IN_PART.search(claim):
            return None
        found = None
        for chunk, known in zip(self.chunks, self._words, strict=True):
            if len(claimed & known) < _ALIKE * len(claimed):
                continue
            for spoken, is_not in self._statements(chunk):
                if len(claimed & spoken) < _ALIKE * len(claimed | spoken):
                    continue
                if is_not is negated:
                    return None
                found = found or chunk
        return found

    def _statements(self, chunk: Chunk) -> list[tuple[set[str], bool]]:
        """The words of a chunk's sentences, and whether each says that something is not so; but for
        those that say so in part."""
        if chunk.id not in self._read:
            self._read[chunk.id] = [
                (words(said) - _NEGATIONS, bool(_NEGATION.search(said)))
                for said in sentences(chunk.text)
                if not _IN_PART.search(said)
            ]
        return self._read[chunk.id]

    def holder(self, value: str) -> Chunk | None:
        """Which chunk supports a value; a mere number is compared as one."""
        if value.strip("-+0123456789.,eE ") or not (asked := figures_of(value)):
            return self.supporter(value)
        pairs = zip(self.chunks, self._numbers, strict=True)
        return next((chunk for chunk, known in pairs if asked <= known), None)


def denies(text: str) -> bool:
    """Whether it has a word of negation, in one of the languages whose words are known here."""
    return bool(_NEGATION.search(text))


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
        if not figures_of(value) <= sources.numbers:
            return None
        claims += bool(words(value))
        if chunk := sources.holder(value):
            citations.append(Citation(chunk, match.start(group), match.end(group)))
    return None if claims and not citations else tuple(citations)


def figures_of(text: str) -> set[str]:
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
