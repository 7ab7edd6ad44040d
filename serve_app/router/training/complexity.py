"""Whether a small model fails where a frontier model succeeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from serve_app.errors import SettingsError
from serve_app.router.encoder import LAYERS
from serve_app.router.features import CUES, cues
from serve_app.router.heads import Linear, dense
from serve_app.router.rows import Row
from serve_app.router.training.linear import Vector, floats, folds, platt
from serve_app.router.training.texts import Texts

_CUES_SCALE = 0.3
_OUTCOME_WEIGHT = 0.3


def train_complexity(texts: Texts, rows: Sequence[Row]) -> Linear:
    shares, weights = _hardness(rows)
    if np.ptp(shares) == 0:
        raise SettingsError("complex has one value in all rows; it needs easy ones and hard ones")
    asks = [row.turns.ask for row in rows]
    counts = np.stack([cues(ask) for ask in asks])
    mean, deviation = counts.mean(0), counts.std(0) + 1e-6
    own = np.hstack([dense(texts[asks], LAYERS), _CUES_SCALE * (counts - mean) / deviation])

    def fitted(chosen: npt.NDArray[Any]) -> LogisticRegression:
        # A share of .3 is three rows of "fails" to seven of "does not".
        model = LogisticRegression(C=0.03, max_iter=3000)
        return model.fit(
            np.vstack([own[chosen], own[chosen]]),
            np.repeat([1, 0], len(chosen)),
            sample_weight=np.concatenate(
                [weights[chosen] * shares[chosen], weights[chosen] * (1 - shares[chosen])]
            ),
        )

    out_of_fold = np.zeros(len(rows))
    for known, held in folds(shares >= np.median(shares)):
        out_of_fold[held] = fitted(known).decision_function(own[held])
    model = fitted(np.arange(len(rows)))
    # The cues' own scale and mean go into weights and bias: what is read later are plain counts.
    coefficients, bias = model.coef_.copy(), model.intercept_.copy()
    coefficients[:, -len(CUES) :] *= _CUES_SCALE / deviation
    bias -= coefficients[:, -len(CUES) :] @ mean
    none = np.zeros((0, 1), dtype=np.float32)
    linear = Linear(floats(coefficients), none, np.zeros((1, 0), np.float32), floats(bias))
    return platt(linear, out_of_fold, shares, weights)


def _hardness(rows: Sequence[Row]) -> tuple[Vector, Vector]:
    """Share of small models that fail, and weight, of each row.

    Outcomes of two given models say which rows of their own file are harder, not how hard the file
    is for others: they enter as ranks within the file, and with less weight.
    """
    shares = np.array([row.complex or 0.0 for row in rows])
    weights = np.ones(len(rows))
    outcomes = {row.source for row in rows if row.weak is not None}
    for source in outcomes:
        mine = [i for i, row in enumerate(rows) if row.source == source and row.weak is not None]
        shares[mine] = rankdata([1 - float(rows[i].weak or 0) for i in mine]) / (len(mine) + 1)
        weights[mine] = _OUTCOME_WEIGHT
    return shares, weights
