"""A draft from evidence, whose sentences are shown as they are found supported.

Behind one that the sources contradict nothing is shown until it is repaired or dropped. What is not
stated is dropped at once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from serve_app.domain import Citation
from serve_app.orchestration.roles.claims import Claim, claimed, is_open, marks_before_stops
from serve_app.orchestration.roles.reflecting import Finding
from serve_app.orchestration.sentences import sentence_spans

NOT_STATED = "NOT STATED"  # what a model begins with that finds no answer in the sources

_ENDS = re.compile(r"[.!?。！？\n]")
_NOTHING = re.compile(r"\W*(?:none|nothing|n/?a)?\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """A sentence of a draft, and what the sources say of it.

    Attributes:
        gap: White space before it.
    """

    gap: str
    claim: Claim
    finding: Finding


@dataclass(frozen=True, slots=True)
class Drafted:
    """A draft that has been looked at.

    Attributes:
        shown: Its sentences that have left, in order.
        held: Those from the first contradicted one on.
        missing: What the sources do not state, as the model put it.
    """

    shown: tuple[Part, ...] = ()
    held: tuple[Part, ...] = ()
    missing: str = ""

    @property
    def contradicted(self) -> list[Claim]:
        """What is to be repaired."""
        return [each.claim for each in self.held if each.finding.verdict == "contradicted"]

    def settled(self, repaired: Sequence[tuple[Claim, Finding]]) -> Drafted:
        """With what was held, where it is supported now.

        Args:
            repaired: In place of each that was contradicted.
        """
        mended = iter(repaired)
        kept = []
        for part in self.held:
            claim, finding = part.claim, part.finding
            if finding.verdict == "contradicted":
                claim, finding = next(mended)
            if finding.verdict == "supported":
                kept.append(Part(part.gap, claim, finding))
        return replace(self, shown=(*self.shown, *kept), held=())

    @property
    def text(self) -> str:
        """What was shown."""
        return joined(self.shown)

    @property
    def citations(self) -> tuple[Citation, ...]:
        """Of the sentences that were shown."""
        found, at = [], 0
        for number, part in enumerate(self.shown):
            start = at + (len(part.gap) if number else 0)
            at = start + len(part.claim.text)
            if part.finding.chunk:
                found.append(Citation(part.finding.chunk, start, at))
        return tuple(found)


def joined(parts: Sequence[Part]) -> str:
    """Sentences as one text."""
    return "".join(part.gap + part.claim.text for part in parts).lstrip()


Check = Callable[[Sequence[Claim]], Awaitable[Sequence[Finding]]]


class Drafting:
    """Reads a draft as it is written. What waits while one check is under way is checked at once.

    Args:
        check: What the sources say of sentences.
        sources: How many there are.
        show: Takes each piece of text that may be seen; `None`: nobody looks before the end, so
            that all is checked at once.
    """

    def __init__(self, check: Check, sources: int, show: Callable[[str], None] | None) -> None:
        self._check = check
        self._sources = sources
        self._show = show
        self._tail = ""
        self._gap = ""
        self._ended = False
        self._waiting: list[tuple[str, Claim]] = []
        self._shown: list[Part] = []
        self._held: list[Part] = []
        self._missing = ""
        self._over = False
        self._moved = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def take(self, text: str) -> None:
        """One more piece of the draft."""
        self._tail += text
        # A sentence is over when the next one has begun.
        self._ended = self._ended or bool(_ENDS.search(text))
        if self._show is None or not self._ended or is_open(self._tail):
            return
        self._tail = marks_before_stops(self._tail)
        self._queue(sentence_spans(self._tail)[:-1])
        self._ended = bool(_ENDS.search(self._tail))

    async def close(self) -> Drafted:
        """The draft is over: what became of it.

        Raises:
            TriviumError: As `check`.
        """
        self._tail = marks_before_stops(self._tail)
        self._queue(sentence_spans(self._tail))
        self._over = True
        self._moved.set()
        await self._task
        return Drafted(tuple(self._shown), tuple(self._held), self._missing)

    def _queue(self, spans: Sequence[tuple[int, int]]) -> None:
        at = 0
        for start, end in spans:
            gap, at = self._tail[at:start], end
            self._gap = "\n" if "\n" in gap else " "
            self._sentence(self._tail[start:end])
        self._tail = self._tail[at:]

    def _sentence(self, text: str) -> None:
        claim = claimed(text, self._sources)
        if claim and claim.text.startswith(NOT_STATED):
            # The sentence behind it; what follows that is a claim like others.
            said = claim.text.removeprefix(NOT_STATED).lstrip(": ")
            self._missing = "" if _NOTHING.fullmatch(said) else said
        elif claim:
            self._waiting.append((self._gap, claim))
            if self._show:
                self._moved.set()

    async def _work(self) -> None:
        while not self._over or self._waiting:
            await self._moved.wait()
            self._moved.clear()
            waiting, self._waiting = self._waiting, []
            if not waiting:
                continue
            found = await self._check([claim for _, claim in waiting])
            for (gap, claim), finding in zip(waiting, found, strict=True):
                self._found(Part(gap if self._shown or self._held else "", claim, finding))

    def _found(self, part: Part) -> None:
        if self._held or part.finding.verdict == "contradicted":
            self._held.append(part)
        elif part.finding.verdict == "supported":
            self._shown.append(part)
            if self._show:
                self._show(part.gap + part.claim.text)
