"""Trained heads over one encoder pass: linear, small, a few kilobytes.

Three heads read the same embedding: the road (softmax over the three roads), volatility and
complexity (a logistic function each). All are fitted by logistic regression.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.router.encoder import Embeddings

ROUTES = tuple(Route)


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled query."""

    query: str
    route: Route
    volatile: bool
    complex: bool


@dataclass(frozen=True, slots=True)
class Signals:
    """What the heads say of one query; each a probability."""

    roads: dict[Route, float]
    volatility: float
    complexity: float


class Heads:
    """Weights of shape (3 + 2, 384) and biases of shape (5,): the roads, volatility, complexity."""

    def __init__(self, weights: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> None:
        self._weights = weights
        self._bias = bias

    def signals(self, embeddings: Embeddings) -> list[Signals]:
        """One `Signals` for each row."""
        logits = embeddings @ self._weights.T + self._bias
        roads = np.exp(logits[:, :3] - logits[:, :3].max(axis=1, keepdims=True))
        roads /= roads.sum(axis=1, keepdims=True)
        binary = 1.0 / (1.0 + np.exp(-logits[:, 3:]))
        return [
            Signals(
                roads=dict(zip(ROUTES, road.tolist(), strict=True)),
                volatility=float(pair[0]),
                complexity=float(pair[1]),
            )
            for road, pair in zip(roads, binary, strict=True)
        ]

    def save(self, path: Path) -> None:
        """Write a safetensors file; complete or not at all."""
        from safetensors.numpy import save_file

        work = path.with_suffix(".tmp")
        # safetensors writes memory as it lies; scikit-learn's arrays may lie column by column.
        weights = np.ascontiguousarray(self._weights)
        save_file({"weights": weights, "bias": np.ascontiguousarray(self._bias)}, work)
        work.replace(path)

    @classmethod
    def load(cls, path: Path) -> Heads:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        tensors = load_file(path)
        return cls(tensors["weights"], tensors["bias"])

    @classmethod
    def train(cls, embeddings: Embeddings, examples: Sequence[Example]) -> Heads:
        """Fit the heads to labelled embeddings of shape (len(examples), 384)."""
        from sklearn.linear_model import LogisticRegression

        def fit(labels: Sequence[int]) -> tuple[Embeddings, Embeddings]:
            model = LogisticRegression(C=10.0, max_iter=1000).fit(embeddings, labels)
            return model.coef_.astype(np.float32), model.intercept_.astype(np.float32)

        fitted = (
            fit([ROUTES.index(example.route) for example in examples]),
            fit([int(example.volatile) for example in examples]),
            fit([int(example.complex) for example in examples]),
        )
        return cls(
            np.concatenate([weights for weights, _ in fitted]),
            np.concatenate([bias for _, bias in fitted]),
        )


def load_examples(path: Path) -> list[Example]:
    """Read labelled examples: JSONL with `query`, `route`, `volatile`, `complex`.

    Raises:
        SettingsError: The file cannot be read, a row is bad (which one, and why), or a road,
            volatility or complexity has examples of one kind only.
    """
    try:
        # Not splitlines: JSON may hold other line separators inside a text.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: routing examples cannot be read: {error}") from None
    examples = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            query = row["query"]
            if not isinstance(query, str) or not query.strip():
                raise ValueError("query must be a text that is not empty")
            for name in ("volatile", "complex"):
                if row[name] not in (0, 1):
                    raise ValueError(f"{name} must be 0 or 1")
            example = Example(
                query, Route(row["route"]), bool(row["volatile"]), bool(row["complex"])
            )
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise SettingsError(f"{path}:{number}: {reason}") from None
        examples.append(example)
    for name, seen, needed in (
        ("route", {e.route for e in examples}, set(ROUTES)),
        ("volatile", {e.volatile for e in examples}, {True, False}),
        ("complex", {e.complex for e in examples}, {True, False}),
    ):
        if seen != needed:
            absent = ", ".join(sorted(str(value) for value in needed - seen))
            raise SettingsError(f"{path}: no example with {name} = {absent}")
    return examples
