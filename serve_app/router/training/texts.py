"""The texts of training rows, encoded once for all heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from serve_app.router.encoder import Encoded, Encoder
from serve_app.router.rows import Row

Progress = Callable[[str], None]

_TEXTS_PER_PART = 512


class Texts:
    """Every text of the training rows, encoded once."""

    def __init__(self, encoder: Encoder, rows: Sequence[Row], on_progress: Progress) -> None:
        texts: dict[str, None] = {}
        for row in rows:
            if row.intent is not None or row.volatile is not None:
                texts |= dict.fromkeys([row.turns.last, row.turns.earlier])
            if is_graded(row):
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
            [share for each in encoded for share in each.read],
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


def is_graded(row: Row) -> bool:
    return row.complex is not None or row.weak is not None
