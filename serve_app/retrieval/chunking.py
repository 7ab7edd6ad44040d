"""Documents to chunks: along headings and paragraphs, bounded in tokens.

Tokens are estimated as words times 1.35 (English WordPiece averages 1.3), so that chunking needs
no tokenizer; the encoder truncates at 256, well above the default bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_HEADING = re.compile(r"^(#{1,6})\s+(.*\S)\s*$")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
TOKENS_PER_WORD = 1.35


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk's text and the headings it stands under, outermost first."""

    headings: tuple[str, ...]
    text: str


def split(text: str, max_tokens: int) -> list[Piece]:
    """Cut Markdown or plain text into pieces of at most about `max_tokens` tokens.

    No word is lost, repeated or reordered; headings move into `Piece.headings`.
    """
    max_words = max(1, int(max_tokens / TOKENS_PER_WORD))
    pieces = []
    for headings, body in _sections(text):
        words = 0
        current: list[str] = []
        for unit in _units(body, max_words):
            length = len(unit.split())
            if current and words + length > max_words:
                pieces.append(Piece(headings, "\n".join(current)))
                current, words = [], 0
            current.append(unit)
            words += length
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


def _units(body: str, max_words: int) -> Iterator[str]:
    """Paragraphs; those too long as sentences; those too long as runs of words."""
    for paragraph in re.split(r"\n\s*\n", body):
        if not paragraph.strip():
            continue
        if len(paragraph.split()) <= max_words:
            yield paragraph.strip()
            continue
        for sentence in _SENTENCE_END.split(paragraph.strip()):
            words = sentence.split()
            if len(words) <= max_words:
                yield sentence.strip()
                continue
            for start in range(0, len(words), max_words):
                yield " ".join(words[start : start + max_words])
