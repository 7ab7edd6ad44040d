"""Whether the true answer changes with time or live data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from serve_app.errors import SettingsError
from serve_app.router.features import buckets
from serve_app.router.heads import VOLATILITY_LAYERS, Linear, dense, sigmoid
from serve_app.router.rows import Row
from serve_app.router.training.linear import (
    CONVERSATION_WEIGHT,
    Vector,
    folds,
    matrix_of,
    platt,
    split,
)
from serve_app.router.training.texts import Conversations, Texts

_PIECES_SCALE = 1.5


def train_volatility(texts: Texts, rows: Sequence[Row], twins: Sequence[Row]) -> Linear:
    """The head.

    Args:
        twins: As `train_fit` takes them.
    """
    labels = np.array([float(row.volatile or 0) >= 0.5 for row in rows])
    if labels.all() or not labels.any():
        raise SettingsError("volatile has one value in all rows; it needs rows with 0 and with 1")
    weights = _balanced(labels, [row.source for row in rows])
    copies = 1 + len(twins) // len(rows)
    features = Conversations.of(texts, [*rows, *twins])
    all_labels, all_weights = np.tile(labels, copies), np.tile(weights, copies)
    all_weights[features.has_earlier] *= CONVERSATION_WEIGHT
    weights = all_weights[: len(labels)]
    matrix = matrix_of(features.last, VOLATILITY_LAYERS, _PIECES_SCALE)

    def fitted(chosen: npt.NDArray[Any], context: sparse.csr_matrix) -> Linear:
        table = sparse.hstack([matrix, context]).tocsr()[chosen]
        model = LogisticRegression(C=3.0, max_iter=3000)
        model.fit(table, all_labels[chosen], sample_weight=all_weights[chosen])
        return split(model.coef_, model.intercept_, VOLATILITY_LAYERS, _PIECES_SCALE)

    everything = np.arange(len(all_labels))
    hashed = [buckets(ids) for ids in features.last.pieces]
    own = dense(features.last, VOLATILITY_LAYERS)
    plain = fitted(everything, sparse.csr_matrix((len(all_labels), 0)))
    before = dense(features.earlier, VOLATILITY_LAYERS)
    volatile = sigmoid(plain.logits(before, [buckets(ids) for ids in features.earlier.pieces]))
    full = np.zeros((len(all_labels), 2), dtype=np.float32)
    full[features.has_earlier] = np.hstack([volatile, np.ones_like(volatile)])
    context = sparse.csr_matrix(full)

    out_of_fold = np.zeros(len(labels))
    for known, held in folds(labels):
        # Twins stay in their original's fold.
        with_twins = np.concatenate([known + number * len(labels) for number in range(copies)])
        linear = fitted(with_twins, context)
        scores = linear.logits(own[held], [hashed[i] for i in held])[:, 0]
        out_of_fold[held] = scores + context[held] @ linear.context[0]
    return platt(fitted(everything, context), out_of_fold, labels.astype(float), weights)


def _balanced(labels: npt.NDArray[Any], sources: Sequence[str]) -> Vector:
    """Weights that make both labels count the same, and let no source stand for its label.

    Where one source holds nearly all rows of a label, a head can learn the source instead of the
    property. Within a label, a source of n rows counts as the square root of n.
    """
    cells = Counter(zip(labels.tolist(), sources, strict=True))
    pairs = zip(labels.tolist(), sources, strict=True)
    weights = np.array([cells[pair] ** -0.5 for pair in pairs])
    for label in (True, False):
        weights[labels == label] /= weights[labels == label].sum()
    return np.asarray(weights / weights.mean())
