"""Trained heads over one encoder pass: linear, calibrated, a small file.

    fit          softmax over the declared intents            layers 4 and 5, word pieces, context
    in scope     logistic, over the best intent's logit
    volatility   logistic                                     layers 3 and 4, word pieces, context
    complexity   logistic                                     layers 3, 4 and 5, cues

*Context* is what the same heads said of the earlier turns: so "and last week?" takes the road of
the question before it, and "now as a table" does not.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.router.encoder import LAYERS, WIDTH, Encoded, Floats
from serve_app.router.features import BUCKETS, CUES, buckets

SHIPPED = Path(__file__).with_name("heads.safetensors")
# Counts up when a head reads something else: weights for other layers fit in shape, not in meaning.
FORMAT = "trivium-router-heads/2"
OUT_OF_SCOPE = "oos"

FIT_LAYERS = (4, 5)
VOLATILITY_LAYERS = (3, 4)

# Of a query that nothing is known of.
_VOLATILE, _COMPLEX = 0.25, 0.5


@dataclass(frozen=True, slots=True)
class Signals:
    """What the heads say of one query; every number is a probability.

    Attributes:
        fit: For each declared intent: is this its task? They sum to 1, less what is out of scope.
        in_scope: Does the query belong to any of them?
        volatility: Does the true answer change with time or live data?
        complexity: Does a small model fail where a frontier model succeeds?
        read: Share of the query that the encoder can read. Of the rest nothing is known: it adds to
            no intent, and moves volatility and complexity towards what they are for most queries.
        coverage: Does the tenant's knowledge base speak of it? `None` where nobody could tell.
    """

    fit: Mapping[str, float]
    in_scope: float
    volatility: float
    complexity: float
    read: float = 1.0
    coverage: float | None = None

    def as_read(self, share: float) -> Signals:
        """The same when only a share of the query could be read."""
        if share == 1.0:
            return self
        return Signals(
            fit={intent: fit * share for intent, fit in self.fit.items()},
            in_scope=self.in_scope * share,
            volatility=_VOLATILE + (self.volatility - _VOLATILE) * share,
            complexity=_COMPLEX + (self.complexity - _COMPLEX) * share,
            read=share,
            coverage=self.coverage,
        )

    def with_coverage(self, share: float | None) -> Signals:
        """The same beside a knowledge base."""
        return Signals(self.fit, self.in_scope, self.volatility, self.complexity, self.read, share)


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear head; `outputs` is 1 for a logistic one.

    Attributes:
        dense: Shape (outputs, dense features).
        pieces: Shape (BUCKETS, outputs); no rows when the head reads no word pieces.
        context: Shape (outputs, context features); no columns when it reads no context.
        bias: Shape (outputs,).
    """

    dense: Floats
    pieces: Floats
    context: Floats
    bias: Floats

    def logits(
        self, dense: Floats, hashed: Sequence[npt.NDArray[np.int64]] | None = None
    ) -> Floats:
        """Shape (rows, outputs), without context."""
        out = dense @ self.dense.T + self.bias
        if hashed is not None and len(self.pieces):
            for row, found in enumerate(hashed):
                out[row] += self.pieces[found].sum(0) / np.sqrt(len(found))
        return np.asarray(out, dtype=np.float32)


@dataclass(frozen=True)
class Heads:
    """All heads, and what they are called.

    Attributes:
        intents: Name of each output of `fit`; the last may be `OUT_OF_SCOPE`.
        roads: The road of each intent.
        scope: Slope and offset of the in-scope logit over the best intent's.
        card: What they were trained on, and how well they do.
        version: The same for the same file; empty before there is one.
    """

    intents: tuple[str, ...]
    roads: Mapping[str, Route]
    fit: Linear
    scope: tuple[float, float]
    volatility: Linear
    complexity: Linear
    card: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    @cached_property
    def _all(self) -> Linear:
        return _side_by_side(self.fit, self.volatility, self.complexity)

    def signals(
        self,
        last: Encoded,
        earlier: Encoded,
        has_earlier: Sequence[int],
        ask: Encoded,
        ask_cues: Floats,
    ) -> list[Signals]:
        """Signals for each row of `last`.

        Args:
            earlier: The earlier turns of those rows that have any.
            has_earlier: Which rows of `last` those are.
            ask: The block of the last turn that asks; a row for each row of `last`.
            ask_cues: Shape (rows, len(CUES)).
        """
        own = self._all.logits(dense(last, LAYERS), [buckets(ids) for ids in last.pieces])
        asked = own if ask is last else self._all.logits(dense(ask, LAYERS), None)
        # Columns: the intents, volatility, complexity.
        fit, volatility = own[:, :-2], own[:, -2:-1]
        complexity = asked[:, -1] + ask_cues @ self.complexity.dense[0, -len(CUES) :]
        if has_earlier:
            which = list(has_earlier)
            fit_context, volatility_context = self.context(earlier)
            fit[which] += fit_context @ self.fit.context.T
            volatility[which] += volatility_context @ self.volatility.context.T
        slope, offset = self.scope
        scope = slope * scope_score(fit, self.intents) + offset
        columns = (scope, volatility[:, 0], complexity)
        rows = zip(
            softmax(fit).tolist(), *(each.tolist() for each in columns), last.read, strict=True
        )
        named = [name for name in self.intents if name != OUT_OF_SCOPE]
        return [
            Signals(
                dict(zip(named, shares, strict=False)),
                chance(inside),
                chance(volatile),
                chance(hard),
            ).as_read(read)
            for shares, inside, volatile, hard, read in rows
        ]

    def context(self, earlier: Encoded) -> tuple[Floats, Floats]:
        """Context features of `fit` (its own shares) and `volatility` (its own, and a 1)."""
        hashed = [buckets(ids) for ids in earlier.pieces]
        shares = softmax(self.fit.logits(dense(earlier, FIT_LAYERS), hashed))
        volatile = sigmoid(self.volatility.logits(dense(earlier, VOLATILITY_LAYERS), hashed))
        return shares, np.hstack([volatile, np.ones_like(volatile)])

    def save(self, path: Path) -> None:
        """Write a safetensors file; complete or not at all."""
        from safetensors.numpy import save_file

        tensors = {"scope": np.array(self.scope, dtype=np.float32)}
        for name in ("fit", "volatility", "complexity"):
            head: Linear = getattr(self, name)
            for part in ("dense", "pieces", "context", "bias"):
                weights: Floats = getattr(head, part)
                # Two bytes a weight lose nothing that shows. safetensors writes memory as it
                # lies, and scikit-learn's arrays may lie column by column.
                tensors[f"{name}.{part}"] = np.ascontiguousarray(weights, dtype=np.float16)
        about = {
            "format": FORMAT,
            "intents": json.dumps(self.intents),
            "roads": json.dumps(self.roads),
            "card": json.dumps(self.card),
        }
        work = path.with_suffix(f".{secrets.token_hex(4)}")
        save_file(tensors, work, metadata=about)
        work.replace(path)

    @classmethod
    def load(cls, path: Path) -> Heads:
        """Read what `save` wrote.

        Raises:
            SettingsError: The file is missing, damaged, or not a file of heads.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                tensors = {
                    name: file.get_tensor(name).astype(np.float32) for name in list(file.keys())
                }
            if about.get("format") != FORMAT:
                raise ValueError(f"its format is {about.get('format')!r}, not {FORMAT!r}")
            heads = cls(
                intents=tuple(json.loads(about["intents"])),
                roads={k: Route(v) for k, v in json.loads(about["roads"]).items()},
                fit=_linear(tensors, "fit"),
                scope=(float(tensors["scope"][0]), float(tensors["scope"][1])),
                volatility=_linear(tensors, "volatility"),
                complexity=_linear(tensors, "complexity"),
                card=json.loads(about["card"]),
                version=hashlib.sha256(path.read_bytes()).hexdigest()[:12],
            )
            heads._check(tensors)
        except (OSError, SafetensorError, ValueError, KeyError, IndexError) as error:
            raise SettingsError(
                f"{path}: router heads cannot be read ({error}); "
                "train them with `trivium train router`"
            ) from None
        return heads

    def _check(self, tensors: Mapping[str, Floats]) -> None:
        n = len(self.intents)
        expected = {
            "fit.dense": (n, len(FIT_LAYERS) * WIDTH),
            "fit.bias": (n,),
            "volatility.dense": (1, len(VOLATILITY_LAYERS) * WIDTH),
            "complexity.dense": (1, len(LAYERS) * WIDTH + len(CUES)),
        }
        for name, shape in expected.items():
            if tensors[name].shape != shape:
                raise ValueError(f"{name} has shape {tensors[name].shape}, not {shape}")
        for name in ("fit", "volatility"):
            if len(tensors[f"{name}.pieces"]) not in (0, BUCKETS):
                raise ValueError(f"{name}.pieces has {len(tensors[f'{name}.pieces'])} rows")
        if not all(np.isfinite(weights).all() for weights in tensors.values()):
            raise ValueError("some weights are not finite")
        if missing := set(self.intents) - {OUT_OF_SCOPE} - set(self.roads):
            raise ValueError(f"no road for {', '.join(sorted(missing))}")


def dense(encoded: Encoded, layers: Sequence[int]) -> Floats:
    """The given layers, which are neighbours, side by side: shape (rows, len(layers) * WIDTH)."""
    first = LAYERS.index(layers[0])
    chosen = encoded.layers[:, first : first + len(layers)]
    return chosen.reshape(len(chosen), len(layers) * WIDTH)


def _side_by_side(fit: Linear, volatility: Linear, complexity: Linear) -> Linear:
    """The heads as one, so that a query's vectors are read once; without context and cues."""
    heads = {FIT_LAYERS: fit, VOLATILITY_LAYERS: volatility, LAYERS: complexity}
    outputs = [len(head.bias) for head in heads.values()]
    weights = np.zeros((sum(outputs), len(LAYERS) * WIDTH), np.float32)
    pieces = np.zeros((BUCKETS, sum(outputs)), np.float32)
    first = 0
    for (layers, head), count in zip(heads.items(), outputs, strict=True):
        from_column, columns = LAYERS.index(layers[0]) * WIDTH, len(layers) * WIDTH
        its = slice(first, first + count)
        weights[its, from_column : from_column + columns] = head.dense[:, :columns]
        if len(head.pieces):
            pieces[:, its] = head.pieces
        first += count
    bias = np.concatenate([head.bias for head in heads.values()])
    return Linear(weights, pieces, np.zeros((sum(outputs), 0), np.float32), bias)


def scope_score(fit: Floats, intents: Sequence[str]) -> Floats:
    """How far the best intent stands out: its logit, less that of `OUT_OF_SCOPE` if declared."""
    if intents[-1] == OUT_OF_SCOPE:
        return np.asarray(fit[:, :-1].max(1) - fit[:, -1], dtype=np.float32)
    return np.asarray(fit.max(1), dtype=np.float32)


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


def sigmoid(logits: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30))), dtype=np.float32)


def chance(logit: float) -> float:
    """The probability of log-odds, which are bounded."""
    return 1.0 / (1.0 + math.exp(-min(max(logit, -30.0), 30.0)))


def _linear(tensors: Mapping[str, Floats], name: str) -> Linear:
    return Linear(*(tensors[f"{name}.{part}"] for part in ("dense", "pieces", "context", "bias")))
