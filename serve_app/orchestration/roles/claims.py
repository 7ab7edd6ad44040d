"""Sentences of a draft, and the marks by which it names their sources: [1], [2, 3]."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.orchestration.evidence import Sources
from serve_app.orchestration.messages import told
from serve_app.orchestration.prompts import Prompt

# Models also copy the marks of the sources as they are told, or name what they count.
_NUMBERS = r"\d{1,3}(?:\s{0,3}[,;]\s{0,3}\d{1,3})*"
_BARE = rf"\[(?:sources?\s)?({_NUMBERS})(?:\s[0-9a-f]{{12}})?\]"
_MARK = re.compile(rf"(?<!\s)\s*{_BARE}", re.IGNORECASE)
_BEHIND = re.compile(rf"([.!?。！？])((?:[ \t]?{_BARE})+)(?=\s|$|[A-Z])", re.IGNORECASE)
_BEGUN = re.compile(r"\[[^\[\]]{0,40}$")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of a draft.

    Attributes:
        sources: Those that the draft names for it, counted from 1; empty: none that there are.
    """

    text: str
    sources: tuple[int, ...] = ()


def beside_sources(
    question: str, claims: Sequence[Claim], sources: Sources, sources_as: Prompt
) -> str:
    """What a model is told that looks at claims: the sources, the question, and the claims.

    Args:
        sources_as: How sources are told.
    """
    numbered = "\n".join(f"{number}. {each.text}" for number, each in enumerate(claims, 1))
    shown = told(sources.chunks, sources_as)
    return f"{shown}\n\nQuestion: {question}\n\nSentences:\n{numbered}"


def claimed(text: str, sources: int) -> Claim | None:
    """A sentence without its marks, and the sources that they name; `None` of marks alone.

    Args:
        sources: How many there are; a mark that names no source counts for nothing.
    """
    named: list[int] = []

    def taken(mark: re.Match[str]) -> str:
        numbers = [int(each) for each in _NUMBER.findall(mark[1])]
        there = all(1 <= each <= sources for each in numbers)
        # Behind a letter it may be the author's own: items[0].
        behind = text[mark.start() - 1 : mark.start()]
        if not there and behind.isalnum() and mark[0].startswith("["):
            return mark[0]
        named.extend(each for each in numbers if 1 <= each <= sources)
        return ""

    bare = _MARK.sub(taken, text).strip()
    return Claim(bare, tuple(dict.fromkeys(named))) if bare else None


def marks_before_stops(text: str) -> str:
    """The text with marks that follow the stop of their sentence put before it."""
    return _BEHIND.sub(lambda found: f"{found[2]}{found[1]} ", text)


def is_open(text: str) -> bool:
    """Whether a mark has begun at the end of a text."""
    return bool(_BEGUN.search(text[-41:]))
