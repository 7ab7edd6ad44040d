"""Which intent a query is, and whether it is any: `fit` and `in scope`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.router.encoder import Floats
from serve_app.router.features import buckets
from serve_app.router.heads import (
    FIT_LAYERS,
    OUT_OF_SCOPE,
    Heads,
    Linear,
    dense,
    scope_score,
    softmax,
)
from serve_app.router.rows import Row
from serve_app.router.training.linear import (
    CONVERSATION_WEIGHT,
    folds,
    matrix_of,
    per_intent,
    scaled,
    split,
    temperature,
)
from serve_app.router.training.texts import Conversations, Progress, Texts

_LEAST_PER_INTENT = 10
_ENOUGH_TO_CALIBRATE = 2000  # held-out rows
_PIECES_SCALE = 1.0


def train_fit(
    texts: Texts,
    rows: Sequence[Row],
    twins: Sequence[Row],
    heads: Heads,
    roads: Mapping[str, Route],
    on_progress: Progress,
) -> Heads:
    """The heads with `fit` and `scope` fitted anew.

    Args:
        twins: Noisy copies of the rows: all of them in order, as often as there are copies.

    Raises:
        SettingsError: An intent has too few examples, or there are fewer than two intents.
    """
    on_progress(f"fit: {len(rows)} rows")
    intents = _intents(rows)
    labels = np.array([intents.index(str(row.intent)) for row in rows])
    table = _Table(Conversations.of(texts, [*rows, *twins]), labels)
    if table.features.has_earlier:
        on_progress("fit: the earlier turns")
        table.read_earlier_turns()
    scores, known = _held_out(table, on_progress)
    on_progress("fit: all rows")
    return replace(
        heads,
        intents=intents,
        roads={name: _road(name, roads) for name in intents if name != OUT_OF_SCOPE},
        fit=scaled(table.fitted(table.everything), temperature(scores, known)),
        scope=_scope(scores, known, intents),
    )


class _Table:
    """What the head is fitted to: rows and their twins.

    Args:
        labels: Of the rows; their twins' are the same.
    """

    def __init__(self, features: Conversations, labels: npt.NDArray[Any]) -> None:
        self.features = features
        self.labels = labels
        self.copies = len(features.last.pieces) // len(labels)
        self.everything = np.arange(self.copies * len(labels))
        self._all_labels = np.tile(labels, self.copies)
        self._weights = np.ones(len(self.everything))
        self._weights[features.has_earlier] = CONVERSATION_WEIGHT
        self._matrix = matrix_of(features.last, FIT_LAYERS, _PIECES_SCALE)
        self._context = sparse.csr_matrix((len(self.everything), 0))

    def read_earlier_turns(self) -> None:
        """Context: what a head that reads none says of the earlier turns."""
        earlier = self.features.earlier
        hashed = [buckets(ids) for ids in earlier.pieces]
        plain = self.fitted(self.everything)
        shares = softmax(plain.logits(dense(earlier, FIT_LAYERS), hashed))
        full = np.zeros((len(self.everything), shares.shape[1]), dtype=np.float32)
        full[self.features.has_earlier] = shares
        self._context = sparse.csr_matrix(full)

    def fitted(self, chosen: npt.NDArray[Any]) -> Linear:
        table = sparse.hstack([self._matrix, self._context]).tocsr()[chosen]
        model = LogisticRegression(C=10.0, max_iter=1000, tol=1e-5)
        model.fit(table, self._all_labels[chosen], sample_weight=self._weights[chosen])
        coefficients, bias = per_intent(model)
        return split(coefficients, bias, FIT_LAYERS, _PIECES_SCALE)

    def logits(self, linear: Linear, chosen: npt.NDArray[Any]) -> Floats:
        own = self.features.last.take(chosen.tolist())
        out = linear.logits(dense(own, FIT_LAYERS), [buckets(ids) for ids in own.pieces])
        if self._context.shape[1]:
            out += np.asarray(self._context[chosen] @ linear.context.T, dtype=np.float32)
        return out


def _held_out(table: _Table, on_progress: Progress) -> tuple[Floats, npt.NDArray[Any]]:
    """Logits of rows by heads that have not seen them, and their labels; enough to calibrate on."""
    rows = len(table.labels)
    scores: list[Floats] = []
    labels: list[npt.NDArray[Any]] = []
    for known, held in folds(table.labels):
        done = sum(len(part) for part in scores)
        if done >= _ENOUGH_TO_CALIBRATE:
            break
        on_progress(f"fit: calibration, from row {done} on")
        # Twins stay in their original's fold.
        with_twins = np.concatenate([known + number * rows for number in range(table.copies)])
        scores.append(table.logits(table.fitted(with_twins), held))
        labels.append(table.labels[held])
    return np.concatenate(scores), np.concatenate(labels)


def _intents(rows: Sequence[Row]) -> tuple[str, ...]:
    counts = Counter(str(row.intent) for row in rows)
    if few := {name: n for name, n in counts.items() if n < _LEAST_PER_INTENT}:
        listed = ", ".join(f"{name} has {n}" for name, n in sorted(few.items()))
        raise SettingsError(f"an intent needs at least {_LEAST_PER_INTENT} examples: {listed}")
    names = sorted(set(counts) - {OUT_OF_SCOPE})
    if len(names) < 2:
        raise SettingsError("there must be at least two intents, so that there is a choice")
    return (*names, OUT_OF_SCOPE) if OUT_OF_SCOPE in counts else tuple(names)


def _road(name: str, roads: Mapping[str, Route]) -> Route:
    if name in roads:
        return roads[name]
    return Route(name) if name in set(Route) else Route.EXPERT


def _scope(logits: Floats, labels: npt.NDArray[Any], intents: Sequence[str]) -> tuple[float, float]:
    """Slope and offset of the in-scope logit, from held-out scores.

    Without examples of what is out of scope, an intent's rows stand in for it as the others see
    them: with their own intent's output taken away.
    """
    scale = temperature(logits, labels)
    logits = logits * np.float32(scale)
    if intents[-1] == OUT_OF_SCOPE:
        score = scope_score(logits, intents)
        outside = labels == len(intents) - 1
    else:
        others = logits.copy()
        others[np.arange(len(labels)), labels] = -np.inf
        score = np.concatenate([logits.max(1), others.max(1)])
        outside = np.concatenate([np.zeros(len(labels), bool), np.ones(len(labels), bool)])
    model = LogisticRegression(C=100.0, class_weight="balanced")
    model.fit(score.reshape(-1, 1), ~outside)
    return float(model.coef_[0, 0]), float(model.intercept_[0])
