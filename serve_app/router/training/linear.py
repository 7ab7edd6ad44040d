"""Linear heads: the features they are fitted to, and weights that give calibrated scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from serve_app.errors import SettingsError
from serve_app.router.encoder import WIDTH, Encoded, Floats
from serve_app.router.features import BUCKETS, buckets
from serve_app.router.heads import Linear, dense, softmax

Vector = npt.NDArray[np.float64]

CONVERSATION_WEIGHT = 3.0
_FOLDS = 5


def folds(labels: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Row numbers to fit on and to hold out, label by label; for calibration."""
    label, fewest = min(Counter(labels.tolist()).items(), key=lambda item: item[1])
    if fewest < _FOLDS:
        raise SettingsError(
            f"too few rows to calibrate on: {fewest} with the label {label}, at least "
            f"{_FOLDS} of each are needed"
        )
    return list(StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(labels, labels))


def matrix_of(encoded: Encoded, layers: Sequence[int], pieces_scale: float) -> sparse.csr_matrix:
    """Layers and hashed word pieces of each row, as training sees them."""
    hashed = [buckets(ids) for ids in encoded.pieces]
    pieces = sparse.csr_matrix(
        (
            np.concatenate([np.full(len(h), pieces_scale / np.sqrt(len(h))) for h in hashed]),
            np.concatenate(hashed),
            np.cumsum([0, *(len(h) for h in hashed)]),
        ),
        shape=(len(hashed), BUCKETS),
        dtype=np.float32,
    )
    return sparse.hstack([sparse.csr_matrix(dense(encoded, layers)), pieces]).tocsr()


def per_intent(model: LogisticRegression) -> tuple[Vector, Vector]:
    """Weights with a row for each class: of two classes scikit-learn fits only the second."""
    if len(model.classes_) > 2:
        return model.coef_, model.intercept_
    return (
        np.vstack([-model.coef_ / 2, model.coef_ / 2]),
        np.concatenate([-model.intercept_ / 2, model.intercept_ / 2]),
    )


def split(coefficients: Vector, bias: Vector, layers: Sequence[int], pieces_scale: float) -> Linear:
    width = len(layers) * WIDTH
    return Linear(
        dense=floats(coefficients[:, :width]),
        pieces=floats(coefficients[:, width : width + BUCKETS].T * pieces_scale),
        context=floats(coefficients[:, width + BUCKETS :]),
        bias=floats(bias),
    )


def platt(linear: Linear, scores: Vector, shares: Vector, weights: Vector) -> Linear:
    """The head rescaled so that its held-out scores are probabilities (Platt scaling)."""
    model = LogisticRegression(C=1e6)
    model.fit(
        np.concatenate([scores, scores]).reshape(-1, 1),
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([weights * shares, weights * (1 - shares)]),
    )
    probable = scaled(linear, float(model.coef_[0, 0]))
    return replace(probable, bias=probable.bias + np.float32(model.intercept_[0]))


def scaled(linear: Linear, factor: float) -> Linear:
    by = np.float32(factor)
    return Linear(linear.dense * by, linear.pieces * by, linear.context * by, linear.bias * by)


def floats(values: Any) -> Floats:
    return np.ascontiguousarray(values, dtype=np.float32)


def temperature(logits: Floats, labels: npt.NDArray[Any]) -> float:
    def loss(log_scale: float) -> float:
        shares = softmax(logits * np.float32(np.exp(log_scale)))
        return float(-np.log(shares[np.arange(len(labels)), labels] + 1e-9).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
