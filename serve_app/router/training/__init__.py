"""From labelled rows to heads: logistic regression on frozen features, then calibration.

Whatever is not linear happens here and is folded into the weights: balancing, calibration (Platt,
1999, and temperature scaling, Guo et al., 2017, both on out-of-fold scores), feature scales.
One module for each head; what they share is in `texts` and `linear`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.router.encoder import Encoder
from serve_app.router.heads import Heads, Linear
from serve_app.router.noise import mistyped, unpunctuated
from serve_app.router.rows import Row
from serve_app.router.training.complexity import train_complexity
from serve_app.router.training.fit import train_fit
from serve_app.router.training.texts import Progress, Texts, is_graded
from serve_app.router.training.volatility import train_volatility

_TWINS = (25, 16)  # noisy copies of each row, by characters per error
_TWINS_UP_TO = 10_000  # rows; more of them hold noise enough, and time counts

_NONE = Linear(*[np.zeros((0, 0), dtype=np.float32)] * 4)
_BLANK = Heads((), {}, _NONE, (0.0, 0.0), _NONE, _NONE)


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
    if not any(row.intent or row.volatile is not None or is_graded(row) for row in rows):
        raise SettingsError(
            "no row has a label to learn from: route or intent, volatile, complex, "
            "or weak_correct and strong_correct"
        )
    heads = replace(base or _BLANK, card=dict(card))
    intents = [row for row in rows if row.intent is not None]
    volatile = [row for row in rows if row.volatile is not None]
    twins, volatile_twins = _twins(intents), _twins(volatile)
    texts = Texts(encoder, [*rows, *twins, *volatile_twins], on_progress)
    if intents:
        heads = train_fit(texts, intents, twins, heads, roads, on_progress)
    if volatile:
        on_progress(f"volatility: {len(volatile)} rows")
        heads = replace(heads, volatility=train_volatility(texts, volatile, volatile_twins))
    if chosen := [row for row in rows if is_graded(row)]:
        on_progress(f"complexity: {len(chosen)} rows")
        heads = replace(heads, complexity=train_complexity(texts, chosen))
    for name in ("fit", "volatility", "complexity"):
        if getattr(heads, name) is _NONE:
            raise SettingsError(f"no row has a label for {name}, and there are no heads to keep")
    return heads


def _twins(rows: Sequence[Row]) -> list[Row]:
    """Noisy copies of the rows, all of them in order, as often as there are copies: they teach that
    a typing error changes nothing, and no mark either."""
    if len(rows) > _TWINS_UP_TO:
        return []
    found = [_mistyped(row, every) for every in _TWINS for row in rows]
    return found + [_with(row, unpunctuated(row.turns.last)) for row in rows]


def _mistyped(row: Row, every: int) -> Row:
    noise = random.Random(f"{every} {row.turns.last}")  # noqa: S311  # the same every time
    return _with(row, mistyped(row.turns.last, noise, every))


def _with(row: Row, last: str) -> Row:
    return replace(row, turns=row.turns.with_last(last))
