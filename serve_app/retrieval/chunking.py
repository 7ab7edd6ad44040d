"""Documents to chunks: along headings and paragraphs, bounded in tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

_HEADING = re.compile(r"^(#{1,6})\s+(.*\S)\s*$")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"\S+")
_TOKEN = 64  # characters; hardly a token has more


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk's text and the headings it stands under, outermost first."""

    headings: tuple[str, ...]
    text: str


def split(text: str, max_tokens: int, count: Callable[[str], int]) -> list[Piece]:
    """Cut Markdown or plain text into pieces of at most `max_tokens` tokens.

    No word is lost, repeated or reordered; headings move into `Piece.headings`. A single word
    longer than that is a piece of its own.

    Args:
        count: Tokens of a text; a text has about as many as its words together.
    """
    count = partial(_bounded, count, max_tokens)
    pieces = []
    for headings, body in _sections(text):
        tokens = 0
        current: list[str] = []
        for unit, length in _units(body, max_tokens, count):
            if current and tokens + length > max_tokens:
                pieces.append(Piece(headings, "\n".join(current)))
                current, tokens = [], 0
            current.append(unit)
            tokens += length
        if current:
            pieces.append(Piece(headings, "\n".join(current)))
    return pieces


def _sections(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    path: list[tuple[int, str]] = []
    lines: list[str] = []
    fenced = False

    def section() -> tuple[tuple[str, ...], str]:
        return tuple(title for _, title in path), "\n".join(lines)

    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        heading = None if fenced else _HEADING.match(line)
        if heading is None:
            lines.append(line)
            continue
        level = len(heading[1])
        if any(kept.strip() for kept in lines):
            yield section()
        elif path and path[-1][0] >= level:
            # Nothing stood below the last heading: then it is the text.
            yield tuple(title for _, title in path[:-1]), path[-1][1]
        lines = []
        path = [(depth, title) for depth, title in path if depth < level]
        path.append((level, heading[2]))
    if any(kept.strip() for kept in lines):
        yield section()
    elif path:
        yield tuple(title for _, title in path[:-1]), path[-1][1]


def _units(body: str, max_tokens: int, count: Callable[[str], int]) -> Iterator[tuple[str, int]]:
    """Paragraphs; those too long as sentences; those too long as runs of words; and the tokens."""
    for paragraph in filter(None, map(str.strip, re.split(r"\n\s*\n", body))):
        if (length := count(paragraph)) <= max_tokens:
            yield paragraph, length
            continue
        for sentence in map(str.strip, _SENTENCE_END.split(paragraph)):
            if (length := count(sentence)) <= max_tokens:
                yield sentence, length
            else:
                yield from ((run, count(run)) for run in _runs(sentence, max_tokens, count))


def _runs(sentence: str, max_tokens: int, count: Callable[[str], int]) -> Iterator[str]:
    run: list[str] = []
    tokens = 0
    for word in (match[0] for match in _WORD.finditer(sentence)):
        length = count(word)
        if run and tokens + length > max_tokens:
            yield " ".join(run)
            run, tokens = [], 0
        run.append(word)
        tokens += length
    yield " ".join(run)


def _bounded(count: Callable[[str], int], max_tokens: int, text: str) -> int:
    """Tokens of a text, or that they are too many: to count them takes 125 times its memory."""
    return max_tokens + 1 if len(text) > _TOKEN * max_tokens else count(text)
