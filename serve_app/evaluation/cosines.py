"""What cosines of an embedding model mean: scales fitted to questions whose answers are known.

For each question, what a search found is held against the documents that hold its answer, and the
statements of what was found against the answer's own words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app import jsonl
from serve_app.domain import Chunk
from serve_app.errors import SettingsError
from serve_app.orchestration import quoting
from serve_app.orchestration.calibration import Calibration, Scale
from serve_app.orchestration.quoting import Statement

_WANTED = '{"query","relevant":[document ids],"answers":[texts]}'
_CANDIDATES = 64
_WORDINGS = (0.0, 0.1, 0.2, 0.3, 0.4)
_NEAR = (0.0, 0.02, 0.05, 0.1)
_LEAST = 30  # chunks, or statements, of each kind
_EXTRA = 0.25  # of an answer: what quoting one statement more than needed costs

Beside = Callable[[str, Sequence[str]], Sequence[Sequence[float]]]
Search = Callable[[str], Sequence[Chunk]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question.

    Attributes:
        relevant: Documents that hold its answer; none, where no document does.
        answers: The answer's words, in any of several ways; empty: every chunk of them counts.
    """

    query: str
    relevant: frozenset[str]
    answers: tuple[str, ...]

    def answered_by(self, chunk: Chunk, text: str) -> bool:
        """Whether a text of a chunk holds the answer."""
        if chunk.document_id not in self.relevant:
            return False
        told = " ".join(text.lower().split())
        return not self.answers or any(" ".join(a.lower().split()) in told for a in self.answers)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A calibration, and how good it is on questions that were left out of its fit.

    Attributes:
        questions: How many.
        right: Of those whose answer was found, the share whose quotation holds it.
        chunk_error, statement_error: Mean absolute gap between probability and frequency, in tenths
            (expected calibration error).
    """

    calibration: Calibration
    questions: int
    right: float
    chunk_error: float
    statement_error: float


def read(path: Path) -> list[Asked]:
    """Questions of a file.

    Raises:
        SettingsError: It cannot be read, or a row is none; names its line.
    """
    found = []
    for number, row in jsonl.objects(path, _WANTED):
        query, relevant = row.get("query", row.get("question")), row.get("relevant")
        answers = row.get("answers") or []
        if not isinstance(query, str) or not _texts(relevant) or not _texts(answers):
            raise SettingsError(f"{path}:{number}: a row is {_WANTED}")
        found.append(Asked(query, frozenset(relevant or ()), tuple(filter(None, answers))))
    return found


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


@dataclass(frozen=True)
class _Seen:
    """What is known of one question: cosines and truths, of chunks and of statements."""

    chunks: list[tuple[float, bool]]
    cosines: npt.NDArray[np.float64]
    shared: npt.NDArray[np.float64]
    holds: npt.NDArray[np.bool_]

    def order(self, wording: float) -> npt.NDArray[np.int64]:
        return np.argsort(-(self.cosines + wording * self.shared), kind="stable")


def fit(
    asked: Sequence[Asked],
    search: Search,
    beside: Beside,
    source: str,
    on_step: Callable[[], None] = lambda: None,
) -> Fitted:
    """Scales for the embedding model that `search` uses.

    Every second question is left out of a first fit, which the figures are of.

    Args:
        beside: Gives its vectors: a query's, and those of texts.
        source: Where the questions come from.

    Raises:
        SettingsError: Too few chunks, or statements, hold an answer, or too few hold none.
    """
    seen = []
    for each in asked:
        seen.append(_seen(each, search(each.query), beside))
        on_step()
    known, held = seen[::2], seen[1::2]
    final = _fitted(seen, _LEAST).model_copy(update={"learned_from": {source: len(asked)}})
    first = _fitted(known, _LEAST // 3)
    chunks = [told for one in held for told in one.chunks]
    return Fitted(
        final,
        len(asked),
        _right(held, first),
        _error(first.chunk, chunks),
        _error(first.statement, _tops(held, first.wording)),
    )


def _seen(asked: Asked, chunks: Sequence[Chunk], beside: Beside) -> _Seen:
    stated: list[Statement] = quoting.statements(asked.query, chunks, _CANDIDATES)
    vectors = np.array(beside(asked.query, [each.in_context for each in stated]))
    return _Seen(
        [(each.relevance, asked.answered_by(each, each.text)) for each in chunks],
        vectors[1:] @ vectors[0],
        np.array(quoting.shared(asked.query, stated)),
        np.array([asked.answered_by(each.chunk, each.text) for each in stated], bool),
    )


def _fitted(seen: Sequence[_Seen], least: int) -> Calibration:
    chunks = [told for one in seen for told in one.chunks]
    _enough("chunks", chunks, least)
    wording = max(_WORDINGS, key=lambda each: sum(told for _, told in _tops(seen, each)))
    tops = _tops(seen, wording)
    _enough("quotations", tops, least)
    base = Calibration(
        chunk=_scale(chunks),
        statement=_scale(tops),
        wording=wording,
        as_near=0.0,
    )
    ways = [base.model_copy(update={"as_near": near}) for near in _NEAR]
    return max(ways, key=lambda each: _worth(seen, each))


def _tops(seen: Sequence[_Seen], wording: float) -> list[tuple[float, bool]]:
    """The nearest statement of each question: its cosine, and whether it holds the answer."""
    found = [(one, one.order(wording)[0]) for one in seen if len(one.cosines)]
    return [(float(one.cosines[at]), bool(one.holds[at])) for one, at in found]


def _quoted(one: _Seen, read: Calibration) -> npt.NDArray[np.int64]:
    scores = one.cosines + read.wording * one.shared
    order = one.order(read.wording)[:2]
    near: npt.NDArray[np.int64] = order[scores[order] >= scores[order[0]] - read.as_near]
    return near


def _worth(seen: Sequence[_Seen], read: Calibration) -> float:
    """Answers quoted, less what was quoted beside them."""
    total = 0.0
    for one in seen:
        if one.holds.any():
            quoted = _quoted(one, read)
            total += bool(one.holds[quoted].any()) - _EXTRA * (len(quoted) - 1)
    return total


def _right(seen: Sequence[_Seen], read: Calibration) -> float:
    found = [bool(one.holds[_quoted(one, read)].any()) for one in seen if one.holds.any()]
    return sum(found) / max(1, len(found))


def _scale(told: Sequence[tuple[float, bool]]) -> Scale:
    from sklearn.linear_model import LogisticRegression

    cosines = np.array([[cosine] for cosine, _ in told])
    model = LogisticRegression(C=1e6).fit(cosines, [true for _, true in told])
    # A cosine that says nothing, or the contrary, must not turn the order round.
    slope = max(float(model.coef_[0, 0]), 1e-3)
    return Scale(slope=slope, offset=float(model.intercept_[0]))


def _enough(what: str, told: Sequence[tuple[float, bool]], least: int) -> None:
    right = sum(true for _, true in told)
    if min(right, len(told) - right) < least:
        raise SettingsError(
            f"{right} of {len(told)} {what} hold an answer: at least {least} must, and as many "
            "must not. Ask more questions, also some that the documents do not answer"
        )


def _error(scale: Scale, told: Sequence[tuple[float, bool]]) -> float:
    pairs = sorted((scale(cosine), true) for cosine, true in told)
    tenths = [part for part in np.array_split(np.array(pairs, float), 10) if len(part)]
    gaps = [abs(part[:, 0].mean() - part[:, 1].mean()) * len(part) for part in tenths]
    return float(sum(gaps) / max(1, len(pairs)))


def plain(fitted: Fitted, model: str) -> Mapping[str, Any]:
    """A file's content, by the model's name."""
    return {model: fitted.calibration.model_dump(mode="json")}
