"""Training rows: JSONL of three shapes, plain or gzipped, which pairs of texts are made of.

- `{"question","passage","relevant"}`: does the passage answer the question?
- `{"question","passages":[{"id","text"}],"support":[ids],"answers":[texts]}`: which passages hold
  an answer, word by word, and which do not. Rows without `support` say nothing.
- `{"source","answer","faithful"}`: does the source support what an answer says? `verdict` may say
  more: `supported`, `contradicted` or `not stated`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app import jsonl
from serve_app.errors import SettingsError

SUPPORTED, CONTRADICTED, NOT_STATED, UNFAITHFUL = range(4)
_VERDICTS = {"supported": SUPPORTED, "contradicted": CONTRADICTED, "not stated": NOT_STATED}
_SHAPES = (
    '{"question","passage","relevant"}, {"question","passages","support","answers"} or '
    '{"source","answer","faithful"}'
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts, and what is known of them.

    Attributes:
        first: A question, or a claim.
        answers: Whether `second` answers the question.
        span: Where its answer stands in `second`, in characters.
        verdict: What `second` says of the claim; `UNFAITHFUL`: it does not support it.
    """

    first: str
    second: str
    answers: bool | None = None
    span: tuple[int, int] | None = None
    verdict: int | None = None


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _Graded(_Row):
    question: str
    passage: str
    relevant: bool


class _Passage(_Row):
    id: str
    text: str


class _Answered(_Row):
    question: str
    passages: list[_Passage]
    support: list[str] = []
    answers: list[str]


class _Judged(_Row):
    source: str
    answer: str
    faithful: bool
    verdict: str | None = None


def read(path: Path) -> list[Pair]:
    """The pairs of a file.

    Raises:
        SettingsError: It cannot be read, or a row is of no shape; names its line.
    """
    found: list[Pair] = []
    for number, row in jsonl.objects(path, _SHAPES):
        try:
            found += _pairs(row)
        except (ValidationError, KeyError) as error:
            raise SettingsError(f"{path}:{number}: {_told(error)}; a row is {_SHAPES}") from None
    if not found:
        raise SettingsError(f"{path}: no row says anything; a row is {_SHAPES}")
    return found


def _pairs(row: Mapping[str, Any]) -> Iterator[Pair]:
    if "passage" in row:
        graded = _Graded.model_validate(row)
        yield Pair(graded.question, graded.passage, answers=graded.relevant)
    elif "passages" in row:
        yield from _answered(_Answered.model_validate(row))
    else:
        judged = _Judged.model_validate(row)
        told = SUPPORTED if judged.faithful else UNFAITHFUL
        verdict = told if judged.verdict is None else _VERDICTS[judged.verdict]
        yield Pair(judged.answer, judged.source, verdict=verdict)


def _answered(row: _Answered) -> Iterator[Pair]:
    """A passage that supports an answer in other words than its own says nothing of where."""
    for passage in row.passages if row.support else ():
        if passage.id not in row.support:
            yield Pair(row.question, passage.text, answers=False)
            continue
        spans = [
            (at, at + len(answer))
            for answer in row.answers
            if answer.strip() and (at := passage.text.find(answer)) >= 0
        ]
        yield Pair(row.question, passage.text, answers=True, span=spans[0] if spans else None)


def _told(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"no verdict is {error}"
