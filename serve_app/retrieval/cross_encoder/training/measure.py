"""How good a cross-encoder is on pairs that it was not fitted to, beside word overlap."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serve_app.retrieval.cross_encoder.model import CrossEncoder
from serve_app.retrieval.cross_encoder.training import claims
from serve_app.retrieval.cross_encoder.training.rows import CONTRADICTED, SUPPORTED, Pair

_WORD = re.compile(r"[^\W_]+")
_FALSE_ALARMS = 0.1
_CLAIMS = 200  # of each kind of change


@dataclass(frozen=True, slots=True)
class Score:
    """Of one task on one set.

    Attributes:
        auc: Area under the ROC curve.
        overlap: The same of the share of the first text's words that the second has.
        caught: Of wrong claims, the share below a threshold that a tenth of the right ones do not
            reach; `None` of what no claims were made for.
    """

    task: str
    name: str
    pairs: int
    auc: float
    overlap: float
    caught: float | None = None

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def graded(model: CrossEncoder, name: str, pairs: Sequence[Pair]) -> Score | None:
    """Does the passage answer? `None` where no pair says."""
    asked = [each for each in pairs if each.answers is not None]
    if len({each.answers for each in asked}) < 2:
        return None
    scores = [model.read(each.first, [each.second])[0].probability for each in asked]
    return _score("answers", name, asked, [bool(each.answers) for each in asked], scores)


def judged(model: CrossEncoder, name: str, pairs: Sequence[Pair]) -> Score | None:
    """Does the passage support the claim? `None` where no pair says."""
    asked = [each for each in pairs if each.verdict is not None]
    labels = [each.verdict == SUPPORTED for each in asked]
    if len(set(labels)) < 2:
        return None
    return _score("supports", name, asked, labels, _support(model, asked))


def changed(model: CrossEncoder, name: str, pairs: Sequence[Pair], seed: int) -> list[Score]:
    """Claims made of the passages: which of those that are wrong in one place are caught?"""
    noise = random.Random(seed)  # noqa: S311  # the same every time
    passages = sorted({each.second for each in pairs})
    made = claims.of_passages(passages, 6 * _CLAIMS, noise)
    right = [each for each in made if each.verdict == SUPPORTED][:_CLAIMS]
    good = _support(model, right)
    least = sorted(good)[int(_FALSE_ALARMS * len(good))]
    found = []
    for kind in claims.ALTERED:
        wrong: list[Pair] = []
        for _ in range(5 * _CLAIMS):
            passage = noise.choice(passages)
            said = claims.altered(passage, kind, noise)
            if said and said not in passage and len(wrong) < _CLAIMS:
                wrong.append(Pair(said, passage, verdict=CONTRADICTED))
        bad = _support(model, wrong)
        labels = [True] * len(good) + [False] * len(bad)
        score = _score(f"{kind} changed", name, [*right, *wrong], labels, [*good, *bad])
        caught = sum(each < least for each in bad) / max(1, len(bad))
        found.append(Score(score.task, name, score.pairs, score.auc, score.overlap, caught))
    return found


def _support(model: CrossEncoder, pairs: Sequence[Pair]) -> list[float]:
    return [each.supported for each in model.check([(p.first, p.second) for p in pairs])]


def _score(
    task: str, name: str, pairs: Sequence[Pair], labels: Sequence[bool], scores: Sequence[float]
) -> Score:
    from sklearn.metrics import roc_auc_score

    overlap = [_overlap(each) for each in pairs]
    return Score(
        task,
        name,
        len(pairs),
        float(roc_auc_score(labels, scores)),
        float(roc_auc_score(labels, overlap)),
    )


def _overlap(pair: Pair) -> float:
    asked = set(_WORD.findall(pair.first.lower()))
    return len(asked & set(_WORD.findall(pair.second.lower()))) / max(1, len(asked))
