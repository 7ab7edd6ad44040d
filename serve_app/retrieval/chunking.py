"""Documents to chunks: along headings and paragraphs, bounded in tokens.

A table or code that is longer than a chunk is cut between its lines, and each piece of it is a
table or code again: it begins with the names of the columns, or stands within a fence of its own.
Where a script puts no blanks between words, it is cut between sentences, then between characters.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from serve_app.retrieval.blocks import Part, sections
from serve_app.search_text import MAX_BYTES, unspaced

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_UNSPACED_END = re.compile(r"(?<=[。！？｡．])")
_WORD = re.compile(r"\S+")
_WORD_AS_IT_STANDS = re.compile(r"\s*\S+")
_RULES = re.compile(r"\s*(?:([-*_])(?:[ \t]*\1){2,}\s*)?")  # lines that are drawn, or nothing
# What would make a heading or a table of the line before it.
_UNDERLINE = re.compile(r"[=|:\-\s]+")
_TOKEN = 64  # characters; hardly a token has more
_MARKS = 8  # of one letter, at most
_LEAST_ROWS = 3
_PER_TOKEN = 3  # characters of a script without blanks: a model that does not know it counts one
# token for a word of any length

Count = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk's text and the headings it stands under, outermost first."""

    headings: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class _Unit:
    """Text that stays together.

    Attributes:
        before: What stands before it within a piece.
        table: It ends in a table, which a line with a bar would continue.
    """

    text: str
    tokens: int
    before: str = "\n"
    table: bool = False


def split(
    text: str,
    max_tokens: int,
    count: Count,
    room: Callable[[tuple[str, ...]], int] | None = None,
) -> list[Piece]:
    """Cut Markdown or plain text into pieces of at most `max_tokens` tokens and `MAX_BYTES`.

    No word is lost or reordered, and none is repeated but in what each piece of a long table or of
    code begins and ends with; headings move into `Piece.headings`. Takes time in proportion to the
    text.

    Args:
        count: Tokens of a text; a text has about as many as its words together.
        room: Tokens that there can be under such headings; as many as `max_tokens` if not given.
    """
    pieces = []
    for section in sections(text):
        bound = max_tokens if room is None else max(1, min(max_tokens, room(section.headings)))
        cut = _Cutter(bound, count)
        units = (unit for parts in section.paragraphs for unit in cut.paragraph(parts))
        texts = _filled(_apart(units), bound)
        pieces += [Piece(section.headings, text) for text in texts if not _RULES.fullmatch(text)]
    return pieces


def _filled(units: Iterable[_Unit], bound: int, most_bytes: int = MAX_BYTES) -> Iterator[str]:
    """Units joined, as many as fit."""
    text: list[str] = []
    tokens = size = 0
    for unit in units:
        length = len(unit.text.encode()) + len(unit.before)
        if text and (tokens + unit.tokens > bound or size + length > most_bytes):
            yield "".join(text)
            text, tokens, size = [], 0, 0
        if text:
            text.append(unit.before)
        text.append(unit.text)
        tokens += unit.tokens
        size += length
    if text:
        yield "".join(text)


def _apart(units: Iterable[_Unit]) -> Iterator[_Unit]:
    """With a blank line between two that would become a heading or one table."""
    table = False
    for unit in units:
        first = unit.text.partition("\n")[0]
        if unit.before == "\n" and (_UNDERLINE.fullmatch(first) or (table and "|" in first)):
            unit = replace(unit, before="\n\n")
        yield unit
        table = unit.table


class _Cutter:
    """Paragraphs to units of at most `bound` tokens, and of `MAX_BYTES` less those `taken`."""

    def __init__(self, bound: int, count: Count, taken: int = 0) -> None:
        self._bound = bound
        self._count = count
        self._bytes = MAX_BYTES - taken

    def paragraph(self, parts: Sequence[Part]) -> Iterator[_Unit]:
        """As it is; one too long by its parts, and these by lines, sentences and words."""
        text = "\n".join(part.text for part in parts).strip()
        if (tokens := self._tokens(text)) <= self._bound:
            yield _Unit(text, tokens, table=parts[-1].kind == "table")
            return
        for part in parts:
            text = part.text.strip() if part.kind == "prose" else part.text
            if (tokens := self._tokens(text)) <= self._bound:
                yield _Unit(text, tokens, table=part.kind == "table")
            elif part.kind == "prose":
                yield from self._prose(text)
            else:
                framed = self._framed(part.head, part.body, part.tail)
                yield from (replace(each, table=part.kind == "table") for each in framed)

    def _tokens(self, text: str) -> int:
        """Tokens of a text, or that they are too many: to count them takes 125 times its memory."""
        too_many = self._bound + 1
        if len(text) > min(_TOKEN * self._bound, self._bytes):
            return too_many
        if text.isascii():
            return self._count(text)
        if len(text.encode()) > self._bytes or unspaced(text) > _PER_TOKEN * self._bound:
            return too_many
        return max(self._count(text), unspaced(text) // _PER_TOKEN)

    def _prose(self, text: str) -> Iterator[_Unit]:
        """What looks like a table under its first row; the rest by sentences, lines and words."""
        lines = text.split("\n")
        rows = [number for number, line in enumerate(lines) if " | " in line]
        if len(rows) < _LEAST_ROWS or 2 * len(rows) < rows[-1] - rows[0]:
            yield from self._sentences(text)
            return
        first, end = rows[0], rows[-1] + 1
        yield from self._sentences("\n".join(lines[:first]))
        yield from self._framed(lines[first], lines[first + 1 : end], "")
        yield from self._sentences("\n".join(lines[end:]))

    def _sentences(self, text: str) -> Iterator[_Unit]:
        for sentence in filter(None, map(str.strip, _SENTENCE_END.split(text))):
            if (tokens := self._tokens(sentence)) <= self._bound:
                yield _Unit(sentence, tokens)
                continue
            for line in filter(None, map(str.strip, sentence.split("\n"))):
                if (tokens := self._tokens(line)) <= self._bound:
                    yield _Unit(line, tokens)
                else:
                    yield from self._runs(line, _WORD, " ")

    def _runs(self, line: str, words: re.Pattern[str], blank: str) -> Iterator[_Unit]:
        """Words with `blank` between them, as many as fit; those too long by themselves."""
        run: list[str] = []
        tokens, before = 0, "\n"
        for word in (match[0] for match in words.finditer(line)):
            length = self._tokens(word)
            if run and tokens + length > self._bound:
                yield _Unit(blank.join(run), tokens, before)
                run, tokens, before = [], 0, blank
            if length > self._bound:
                yield from self._letters(word, before)
                before = blank
            else:
                run.append(word)
                tokens += length
        if run:
            yield _Unit(blank.join(run), tokens, before)

    def _letters(self, text: str, before: str) -> Iterator[_Unit]:
        """What has no blanks, by sentences, and what is too long as it comes."""
        for sentence in filter(None, _UNSPACED_END.split(text)):
            if (tokens := self._tokens(sentence)) <= self._bound:
                yield _Unit(sentence, tokens, before)
                before = ""
                continue
            start, size = 0, self._bound
            while start < len(sentence):
                end = _cut(sentence, start, size)
                tokens = self._tokens(sentence[start:end])
                if tokens > self._bound and end - start > 1:
                    size = max(1, min(size, end - start) // 2)
                    continue
                yield _Unit(sentence[start:end], min(tokens, self._bound), before)
                start, before = end, ""
                size *= 1 + (tokens * 2 <= self._bound)

    def _framed(self, head: str, body: Sequence[str], tail: str) -> Iterator[_Unit]:
        """Lines in pieces, each between head and tail."""
        frame = self._tokens(head) + self._tokens(tail)
        if 2 * frame > self._bound:  # more of a piece would be frame than lines
            lines = [*head.split("\n"), *body, *filter(None, [tail])]
            yield from itertools.chain.from_iterable(map(self._line, lines))
            return
        within = _Cutter(self._bound - frame, self._count, len(f"{head}{tail}".encode()) + 2)
        units = itertools.chain.from_iterable(map(within._line, body))
        for text in _filled(units, within._bound, within._bytes):
            whole = "\n".join([head, text, *filter(None, [tail])])
            yield _Unit(whole, self._tokens(whole))

    def _line(self, line: str) -> Iterator[_Unit]:
        """A line as it stands; one too long in parts."""
        if (tokens := self._tokens(line)) <= self._bound:
            yield _Unit(line, tokens)
        else:
            yield from self._runs(line, _WORD_AS_IT_STANDS, "")


def _cut(text: str, start: int, size: int) -> int:
    """Where a part of at most so many characters ends; marks stay with their letter."""
    end = min(start + size, len(text))
    for at in range(end, max(start, end - _MARKS), -1):
        if at == len(text) or not unicodedata.category(text[at]).startswith("M"):
            return at
    return end
