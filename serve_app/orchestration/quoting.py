"""Answers by quotation: which statements of the evidence say what was asked, if any does.

A rule where a model is not worth its price: a statement is copied as it stands, so it cannot be
wrong about its source, only about the question.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.domain import Chunk
from serve_app.orchestration.calibration import Calibration
from serve_app.orchestration.evidence import words
from serve_app.orchestration.sentences import sentences

_PREFIX = 5  # letters by which words are compared: "delivery" is "delivered"

_TABLE_ROW = re.compile(r"\|.*\||.*\S \| \S")
_RULE = re.compile(r"[\s|:-]+")
_FIELD = re.compile(r"[^.:!?]{1,60}: \S")


@dataclass(frozen=True, slots=True)
class Statement:
    """What can be quoted on its own: a sentence, or a table's row with the names of its columns."""

    text: str
    chunk: Chunk

    @property
    def in_context(self) -> str:
        """As the embedding model reads it: below its title and heading."""
        return f"{self.chunk.title}\n{self.chunk.heading}\n{self.text}"

    def introduced(self) -> str:
        """With title and heading before it, unless it says itself what it is about."""
        path = [self.chunk.title, *filter(None, self.chunk.heading.split(" › "))]
        said = words(self.text)
        missing = [name for name in dict.fromkeys(path) if not words(name) <= said]
        return f"{', '.join(missing)}: {self.text}" if missing else self.text


def statements(query: str, chunks: Sequence[Chunk], limit: int) -> list[Statement]:
    """What can be quoted, in order; above `limit`, those that share most words with the query."""
    found = [Statement(text, chunk) for chunk in chunks for text in _texts(chunk.text)]
    if len(found) <= limit:
        return found
    asked = _stems(query)
    # Read once for all statements of a chunk, of which there may be thousands.
    above = {id(chunk): _stems(f"{chunk.title}\n{chunk.heading}") for chunk in chunks}
    shared = [len(asked & (above[id(each.chunk)] | _stems(each.text))) for each in found]
    kept = sorted(range(len(found)), key=lambda i: -shared[i])[:limit]
    return [found[i] for i in sorted(kept)]


def choose(
    query: str,
    stated: Sequence[Statement],
    cosines: Sequence[float],
    read: Calibration,
    least: float,
) -> list[Statement]:
    """The statement nearest to the query, and the next one if it comes as near.

    Two of one chunk are in its order. Empty when the nearest holds the answer with a probability
    below `least`. The words of the query count beside the cosines: the fewer statements share one,
    the more.
    """
    if not stated:
        return []
    pairs = zip(cosines, shared(query, stated), strict=True)
    scores = [cosine + read.wording * share for cosine, share in pairs]
    order = sorted(range(len(stated)), key=lambda i: -scores[i])
    if read.statement(cosines[order[0]]) < least:
        return []
    chosen = [i for i in order[:2] if scores[i] >= scores[order[0]] - read.as_near]
    if len({id(stated[i].chunk) for i in chosen}) == 1:
        chosen.sort()
    return [stated[i] for i in chosen]


def shared(query: str, stated: Sequence[Statement]) -> list[float]:
    """The share of the query's words that each statement has; rare ones count more."""
    asked = _stems(query)
    known = [_stems(each.in_context) for each in stated]
    weight = {word: 1 / (sum(word in each for each in known) or 1) for word in asked}
    whole = sum(weight.values()) or 1.0
    return [sum(weight[word] for word in asked & each) / whole for each in known]


def parts(chosen: Sequence[Statement]) -> list[tuple[str, Chunk]]:
    """Texts and their chunks, ready to be cited; a heading is not said twice in a row."""
    told: tuple[str, str] | None = None
    texts = []
    for each in chosen:
        place = (each.chunk.title, each.chunk.heading)
        texts.append((each.text if place == told else each.introduced(), each.chunk))
        told = place
    return texts


def _texts(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    lines = [line for line in stripped if line and not _RULE.fullmatch(line)]
    if len(lines) > 1 and all(_FIELD.match(line) for line in lines):
        return ["\n".join(lines)]  # a row of a CSV file, a line for each column
    found: list[str] = []
    for is_table, run in itertools.groupby(lines, lambda line: bool(_TABLE_ROW.match(line))):
        if is_table:
            head, *rows = run
            found += [f"{head}\n{row}" for row in rows] or [head]
        else:
            found += sentences("\n".join(run))
    return found


def _stems(text: str) -> set[str]:
    return {word[:_PREFIX] for word in words(text)}
