"""From labelled rows to heads: logistic regression on frozen features, then calibration.

Whatever is not linear happens here and is folded into the weights: balancing, calibration (Platt,
1999, and temperature scaling, Guo et al., 2017, both on out-of-fold scores), feature scales.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize_scalar
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.router.encoder import LAYERS, WIDTH, Encoded, Encoder, Floats
from serve_app.router.features import BUCKETS, CUES, buckets, cues
from serve_app.router.heads import (
    FIT_LAYERS,
    OUT_OF_SCOPE,
    VOLATILITY_LAYERS,
    Heads,
    Linear,
    dense,
    scope_score,
    sigmoid,
    softmax,
)
from serve_app.router.noise import mistyped
from serve_app.router.rows import Row

LEAST_PER_INTENT = 10
_FOLDS = 5
_ENOUGH_TO_CALIBRATE = 2000  # held-out rows
_TWINS = (25, 16)  # noisy copies of each row, by characters per error
_TWINS_UP_TO = 10_000  # rows; more of them hold noise enough, and time counts
_TEXTS_PER_PART = 512
_PIECES_SCALE = {"fit": 1.0, "volatility": 1.5}
_CUES_SCALE = 0.3
_CONVERSATION_WEIGHT = 3.0
_OUTCOME_WEIGHT = 0.3

Progress = Callable[[str], None]
Vector = npt.NDArray[np.float64]


class Texts:
    """Every text of the training rows, encoded once."""

    def __init__(self, encoder: Encoder, rows: Sequence[Row], on_progress: Progress) -> None:
        texts: dict[str, None] = {}
        for row in rows:
            if row.intent is not None or row.volatile is not None:
                texts |= dict.fromkeys([row.turns.last, row.turns.earlier])
            if _is_graded(row):
                texts[row.turns.ask] = None
        self._row = {text: i for i, text in enumerate(texts)}
        parts = [
            list(texts)[i : i + _TEXTS_PER_PART] for i in range(0, len(texts), _TEXTS_PER_PART)
        ]
        encoded = []
        for done, part in enumerate(parts):
            on_progress(f"encoding {done * _TEXTS_PER_PART} of {len(texts)} texts")
            encoded.append(encoder.encode(part))
        self._encoded = Encoded(
            np.concatenate([each.layers for each in encoded]),
            [ids for each in encoded for ids in each.pieces],
        )

    def __getitem__(self, texts: Sequence[str]) -> Encoded:
        return self._encoded.take([self._row[text] for text in texts])


@dataclass(frozen=True, slots=True)
class Conversations:
    """The turns of rows: the last of each, and the earlier ones of those rows that have any."""

    last: Encoded
    earlier: Encoded
    has_earlier: list[int]

    @classmethod
    def of(cls, texts: Texts, rows: Sequence[Row]) -> Conversations:
        has_earlier = [i for i, row in enumerate(rows) if row.turns.earlier]
        return cls(
            last=texts[[row.turns.last for row in rows]],
            earlier=texts[[rows[i].turns.earlier for i in has_earlier]],
            has_earlier=has_earlier,
        )


def train(
    encoder: Encoder,
    rows: Sequence[Row],
    base: Heads | None,
    *,
    roads: Mapping[str, Route],
    card: Mapping[str, Any],
    on_progress: Progress = lambda _: None,
) -> Heads:
    """Heads fitted to the rows; a head whose label no row carries is taken from `base`.

    Args:
        roads: The road of each intent that is not a road's own name; others belong to the expert.

    Raises:
        SettingsError: An intent has fewer than 10 examples, or a label has one value only, or is
            missing and there is no `base`.
    """
    if not any(row.intent or row.volatile is not None or _is_graded(row) for row in rows):
        raise SettingsError(
            "no row has a label to learn from: route or intent, volatile, complex, "
            "or weak_correct and strong_correct"
        )
    heads = replace(base or _BLANK, card=dict(card))
    intents = [row for row in rows if row.intent is not None]
    # Noisy twins teach that a typing error changes nothing.
    noise = _TWINS if len(intents) <= _TWINS_UP_TO else ()
    twins = [_mistyped(row, every) for every in noise for row in intents]
    texts = Texts(encoder, [*rows, *twins], on_progress)
    if intents:
        heads = _train_fit(texts, intents, twins, heads, roads, on_progress)
    if chosen := [row for row in rows if row.volatile is not None]:
        on_progress(f"volatility: {len(chosen)} rows")
        heads = replace(heads, volatility=_train_volatility(texts, chosen))
    if chosen := [row for row in rows if _is_graded(row)]:
        on_progress(f"complexity: {len(chosen)} rows")
        heads = replace(heads, complexity=_train_complexity(texts, chosen))
    for name in ("fit", "volatility", "complexity"):
        if getattr(heads, name) is _NONE:
            raise SettingsError(f"no row has a label for {name}, and there are no heads to keep")
    return heads


# --- fit and scope -------------------------------------------------------------------------------


def _train_fit(
    texts: Texts,
    rows: Sequence[Row],
    twins: Sequence[Row],
    heads: Heads,
    roads: Mapping[str, Route],
    on_progress: Progress,
) -> Heads:
    on_progress(f"fit: {len(rows)} rows")
    intents = _intents(rows)
    labels = np.array([intents.index(str(row.intent)) for row in rows])
    features = Conversations.of(texts, [*rows, *twins])
    copies = 1 + len(twins) // len(rows)
    all_labels = np.tile(labels, copies)
    weights = np.ones(len(all_labels))
    weights[features.has_earlier] = _CONVERSATION_WEIGHT
    matrix = _matrix(features.last, FIT_LAYERS, _PIECES_SCALE["fit"])

    def fitted(chosen: npt.NDArray[Any], context: sparse.csr_matrix) -> Linear:
        table = sparse.hstack([matrix, context]).tocsr()[chosen]
        model = LogisticRegression(C=10.0, max_iter=1000, tol=1e-5)
        model.fit(table, all_labels[chosen], sample_weight=weights[chosen])
        coefficients, bias = _per_intent(model)
        return _split(coefficients, bias, FIT_LAYERS, _PIECES_SCALE["fit"])

    everything = np.arange(len(all_labels))
    empty = sparse.csr_matrix((len(all_labels), 0))
    context = empty
    if features.has_earlier:
        on_progress("fit: the earlier turns")
        plain = fitted(everything, empty)
        before = [buckets(ids) for ids in features.earlier.pieces]
        shares = softmax(plain.logits(dense(features.earlier, FIT_LAYERS), before))
        full = np.zeros((len(all_labels), shares.shape[1]), dtype=np.float32)
        full[features.has_earlier] = shares
        context = sparse.csr_matrix(full)

    scores: list[Floats] = []
    held_labels = []
    hashed = [buckets(ids) for ids in features.last.pieces[: len(labels)]]
    own = dense(features.last, FIT_LAYERS)
    for known, held in _folds(labels):
        done = sum(len(part) for part in scores)
        if done >= _ENOUGH_TO_CALIBRATE:
            break
        on_progress(f"fit: calibration, from row {done} on")
        # Twins stay in their original's fold.
        with_twins = [known + number * len(labels) for number in range(copies)]
        linear = fitted(np.concatenate(with_twins), context)
        logits = linear.logits(own[held], [hashed[i] for i in held])
        if context.shape[1]:
            logits += np.asarray(context[held] @ linear.context.T, dtype=np.float32)
        scores.append(logits)
        held_labels.append(labels[held])
    out_of_fold, known_labels = np.concatenate(scores), np.concatenate(held_labels)
    on_progress("fit: all rows")
    final = _scaled(fitted(everything, context), _temperature(out_of_fold, known_labels))
    heads = replace(
        heads,
        intents=intents,
        roads={name: _road(name, roads) for name in intents if name != OUT_OF_SCOPE},
        fit=final,
    )
    return replace(heads, scope=_scope(out_of_fold, known_labels, intents))


def _intents(rows: Sequence[Row]) -> tuple[str, ...]:
    counts = Counter(str(row.intent) for row in rows)
    if few := {name: n for name, n in counts.items() if n < LEAST_PER_INTENT}:
        listed = ", ".join(f"{name} has {n}" for name, n in sorted(few.items()))
        raise SettingsError(f"an intent needs at least {LEAST_PER_INTENT} examples: {listed}")
    names = sorted(set(counts) - {OUT_OF_SCOPE})
    if len(names) < 2:
        raise SettingsError("there must be at least two intents, so that there is a choice")
    return (*names, OUT_OF_SCOPE) if OUT_OF_SCOPE in counts else tuple(names)


def _road(name: str, roads: Mapping[str, Route]) -> Route:
    if name in roads:
        return roads[name]
    return Route(name) if name in set(Route) else Route.EXPERT


def _mistyped(row: Row, every: int) -> Row:
    noise = random.Random(f"{every} {row.turns.last}")  # noqa: S311  # the same every time
    return replace(row, turns=replace(row.turns, last=mistyped(row.turns.last, noise, every)))


def _temperature(logits: Floats, labels: npt.NDArray[Any]) -> float:
    def loss(log_scale: float) -> float:
        shares = softmax(logits * np.float32(np.exp(log_scale)))
        return float(-np.log(shares[np.arange(len(labels)), labels] + 1e-9).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def _scope(logits: Floats, labels: npt.NDArray[Any], intents: Sequence[str]) -> tuple[float, float]:
    """Slope and offset of the in-scope logit, from held-out scores.

    Without examples of what is out of scope, an intent's rows stand in for it as the others see
    them: with their own intent's output taken away.
    """
    scale = _temperature(logits, labels)
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


# --- volatility ----------------------------------------------------------------------------------


def _train_volatility(texts: Texts, rows: Sequence[Row]) -> Linear:
    labels = np.array([float(row.volatile or 0) >= 0.5 for row in rows])
    if labels.all() or not labels.any():
        raise SettingsError("volatile has one value in all rows; it needs rows with 0 and with 1")
    weights = _balanced(labels, [row.source for row in rows])
    features = Conversations.of(texts, rows)
    weights[features.has_earlier] *= _CONVERSATION_WEIGHT
    scale = _PIECES_SCALE["volatility"]
    matrix = _matrix(features.last, VOLATILITY_LAYERS, scale)

    def fitted(chosen: npt.NDArray[Any], context: sparse.csr_matrix) -> Linear:
        table = sparse.hstack([matrix, context]).tocsr()[chosen]
        model = LogisticRegression(C=3.0, max_iter=3000)
        model.fit(table, labels[chosen], sample_weight=weights[chosen])
        return _split(model.coef_, model.intercept_, VOLATILITY_LAYERS, scale)

    everything = np.arange(len(labels))
    hashed = [buckets(ids) for ids in features.last.pieces]
    own = dense(features.last, VOLATILITY_LAYERS)
    plain = fitted(everything, sparse.csr_matrix((len(labels), 0)))
    before = dense(features.earlier, VOLATILITY_LAYERS)
    volatile = sigmoid(plain.logits(before, [buckets(ids) for ids in features.earlier.pieces]))
    full = np.zeros((len(labels), 2), dtype=np.float32)
    full[features.has_earlier] = np.hstack([volatile, np.ones_like(volatile)])
    context = sparse.csr_matrix(full)

    out_of_fold = np.zeros(len(labels))
    for known, held in _folds(labels):
        linear = fitted(known, context)
        scores = linear.logits(own[held], [hashed[i] for i in held])[:, 0]
        out_of_fold[held] = scores + context[held] @ linear.context[0]
    return _platt(fitted(everything, context), out_of_fold, labels.astype(float), weights)


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


# --- complexity ----------------------------------------------------------------------------------


def _train_complexity(texts: Texts, rows: Sequence[Row]) -> Linear:
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
    for known, held in _folds(shares >= np.median(shares)):
        out_of_fold[held] = fitted(known).decision_function(own[held])
    model = fitted(np.arange(len(rows)))
    # The cues' own scale and mean go into weights and bias: what is read later are plain counts.
    coefficients, bias = model.coef_.copy(), model.intercept_.copy()
    coefficients[:, -len(CUES) :] *= _CUES_SCALE / deviation
    bias -= coefficients[:, -len(CUES) :] @ mean
    none = np.zeros((0, 1), dtype=np.float32)
    linear = Linear(_floats(coefficients), none, np.zeros((1, 0), np.float32), _floats(bias))
    return _platt(linear, out_of_fold, shares, weights)


def _is_graded(row: Row) -> bool:
    return row.complex is not None or row.weak is not None


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


# --- shared --------------------------------------------------------------------------------------


def _folds(labels: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Row numbers to fit on and to hold out, label by label; for calibration."""
    label, fewest = min(Counter(labels.tolist()).items(), key=lambda item: item[1])
    if fewest < _FOLDS:
        raise SettingsError(
            f"too few rows to calibrate on: {fewest} with the label {label}, at least "
            f"{_FOLDS} of each are needed"
        )
    return list(StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(labels, labels))


def _matrix(encoded: Encoded, layers: Sequence[int], pieces_scale: float) -> sparse.csr_matrix:
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


def _per_intent(model: LogisticRegression) -> tuple[Vector, Vector]:
    """Weights with a row for each class: of two classes scikit-learn fits only the second."""
    if len(model.classes_) > 2:
        return model.coef_, model.intercept_
    return (
        np.vstack([-model.coef_ / 2, model.coef_ / 2]),
        np.concatenate([-model.intercept_ / 2, model.intercept_ / 2]),
    )


def _split(
    coefficients: Vector, bias: Vector, layers: Sequence[int], pieces_scale: float
) -> Linear:
    width = len(layers) * WIDTH
    return Linear(
        dense=_floats(coefficients[:, :width]),
        pieces=_floats(coefficients[:, width : width + BUCKETS].T * pieces_scale),
        context=_floats(coefficients[:, width + BUCKETS :]),
        bias=_floats(bias),
    )


def _platt(linear: Linear, scores: Vector, shares: Vector, weights: Vector) -> Linear:
    """The head rescaled so that its held-out scores are probabilities (Platt scaling)."""
    model = LogisticRegression(C=1e6)
    model.fit(
        np.concatenate([scores, scores]).reshape(-1, 1),
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([weights * shares, weights * (1 - shares)]),
    )
    scaled = _scaled(linear, float(model.coef_[0, 0]))
    return replace(scaled, bias=scaled.bias + np.float32(model.intercept_[0]))


def _scaled(linear: Linear, factor: float) -> Linear:
    by = np.float32(factor)
    return Linear(linear.dense * by, linear.pieces * by, linear.context * by, linear.bias * by)


def _floats(values: Any) -> Floats:
    return np.ascontiguousarray(values, dtype=np.float32)


_NONE = Linear(*[np.zeros((0, 0), dtype=np.float32)] * 4)
_BLANK = Heads((), {}, _NONE, (0.0, 0.0), _NONE, _NONE)
