"""What needs no router: labels and rankings by the most frequent label, length, TF-IDF, neighbours.

Those that learn are cross-validated on the very rows that are measured, which flatters them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline

from serve_app.evaluation.metrics import Vector
from serve_app.router.rows import Row

Labels = npt.NDArray[Any]

_NEIGHBOURS = (5, 10, 20, 50, 100)
_FOLDS = 5


def guesses(truth: Labels, rows: Sequence[Row]) -> dict[str, Labels]:
    """The labels that the baselines would give."""
    majority = Counter(truth.tolist()).most_common(1)[0][0]
    guessed: dict[str, Labels] = {"majority": np.full(len(truth), majority)}
    if (folds := _folds(truth)) is not None:
        lengths = np.log1p([[len(row.turns.last)] for row in rows])
        model = LogisticRegression(max_iter=1000)
        guessed["length"] = cross_val_predict(model, lengths, truth, cv=folds)
        texts = [row.turns.last for row in rows]
        guessed["tf-idf"] = cross_val_predict(_tfidf(), texts, truth, cv=folds)
    return guessed


def rankings(truth: Labels, rows: Sequence[Row]) -> dict[str, Vector]:
    """Scores of the baselines, higher for a truth of 1."""
    ranked = {
        "random": np.zeros(len(truth)),
        "length": np.array([float(len(row.turns.last)) for row in rows]),
    }
    if (folds := _folds(truth)) is not None:
        texts = [row.turns.last for row in rows]
        shares = cross_val_predict(_tfidf(), texts, truth, cv=folds, method="predict_proba")
        ranked["tf-idf"] = shares[:, 1]
    return ranked


def neighbours(vectors: npt.NDArray[np.float32], gains: Vector) -> Vector:
    """The gain of each row, as rows near to it tell: k nearest neighbours over outcomes.

    Li, "Rethinking Predictive Modeling for LLM Routing: When Simple kNN Beats Complex Learned
    Routers" (arXiv 2505.12601). How many neighbours count is tuned on the other folds.

    Args:
        vectors: Shape (rows, width).
        gains: By how much the strong model is better, row by row.
    """
    known = len(gains) * (_FOLDS - 1) ** 2 // _FOLDS**2
    grid = {"n_neighbors": [k for k in _NEIGHBOURS if k < known] or [1]}
    model = KNeighborsRegressor(metric="cosine", weights="distance")
    folds = KFold(_FOLDS, shuffle=True, random_state=0)
    tuned = GridSearchCV(model, grid, cv=folds, scoring="neg_mean_squared_error")
    return np.asarray(cross_val_predict(tuned, vectors, gains, cv=folds), dtype=float)


def _folds(truth: Labels) -> StratifiedKFold | None:
    """Five folds, or none when some label is too rare for them."""
    if min(Counter(truth.tolist()).values()) < _FOLDS:
        return None
    return StratifiedKFold(_FOLDS, shuffle=True, random_state=0)


def _tfidf() -> Pipeline:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000))
