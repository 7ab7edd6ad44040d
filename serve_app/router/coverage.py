"""Whether a tenant's knowledge base speaks of what is asked, by its sketch.

Three things tell it, weighed by a logistic regression that was fitted to questions and bases of
several kinds (`tools/coverage.py`): how many of the question's words, by their rarity, stand in one
block of the base; how many stand anywhere in it; and how much nearer the question is to the base's
texts than to questions about anything at all. Bases differ in what questions about anything score
on them: a wide one speaks a little of everything. So a score is read against that of such
questions on the same base.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.errors import SettingsError
from serve_app.router.encoder import Encoded, Encoder, Floats
from serve_app.router.heads import chance
from serve_app.sketches import BLOCKS, Hashes, Sketch, VectorModel, words

SHIPPED = Path(__file__).with_name("coverage.safetensors")
FORMAT = "trivium-router-coverage/2"
AXES = 96  # of the vectors that texts are compared by
Places = npt.NDArray[np.intp]
UNTOLD = 0.5  # where nobody can tell
USUAL = 5  # questions about anything that one is compared with

# Half-way to where one in ten questions about anything would count as covered.
_TOWARDS, _OF_ANYTHING = 0.5, 0.9
_SENTENCE = 4  # words; no question of so many has none that is common
_UNSEEN = 2.0  # texts that a word stands in which stands in none


@dataclass(frozen=True, slots=True)
class Background:
    """Questions about anything.

    Attributes:
        vectors: Of each, as `Coverage.vectors` makes them.
        words: Hashes of the words of each.
        near: How near each is to the others.
    """

    vectors: Floats
    words: Sequence[Hashes]
    near: Floats


@dataclass(frozen=True, slots=True)
class Base:
    """What is known of a tenant's knowledge base.

    Attributes:
        sketch: Empty where there is nothing in it.
        version: Of the sketch.
        vectors: Of the sketch, ready to be multiplied.
        even: The score at which a question is as likely covered as not.
    """

    sketch: Sketch
    version: int
    vectors: Floats
    even: float = 0.0

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.sketch.size + int(self.vectors.nbytes)


@dataclass(frozen=True, slots=True)
class Coverage:
    """The fitted model.

    Attributes:
        weights: Of the features of `features`, and the offset.
        axes: Shape (WIDTH, AXES): those of the encoder's last layer along which texts differ
            most. All of its numbers tell no more, and would push the encoder itself out of the
            processor's cache.
        background: What a question is compared with, and a base's scores.
        hashes: Of words that many questions have, ascending.
        rarities: Of each: the logarithm of how few questions have it.
        unknown: The same of every other word.
        version: The same for the same file; empty before there is one.
    """

    weights: tuple[float, ...]
    axes: Floats
    background: Background
    hashes: Hashes
    rarities: Floats
    unknown: float
    version: str = ""

    def vectors(self, encoded: Encoded) -> Floats:
        """Texts as sketches and this model read them: shape (texts, AXES), of length 1."""
        along: Floats = encoded.layers[:, -1] @ self.axes
        along /= np.sqrt((along * along).sum(1, keepdims=True))
        return along

    def model(self, encoder: Encoder) -> VectorModel:
        """What makes the vectors of sketches that this model reads."""
        return VectorModel(self.version, lambda texts: self.vectors(encoder.encode(texts)))

    def base(self, sketch: Sketch, version: int) -> Base:
        """A base by its sketch; takes some milliseconds.

        Raises:
            ValueError: The sketch's vectors are of another model.
        """
        if sketch.texts and sketch.model != self.version:
            raise ValueError(f"a sketch by model {sketch.model!r}, not {self.version!r}")
        ready = sketch.vectors.astype(np.float32)
        if not sketch.texts:
            return Base(sketch, version, ready)
        asked = self.background
        nearer = (asked.vectors @ ready.T).max(1) - asked.near
        scores = [
            self.score((*self.shared(sketch, each), near))
            for each, near in zip(asked.words, nearer.tolist(), strict=True)
        ]
        return Base(sketch, version, ready, _TOWARDS * float(np.quantile(scores, _OF_ANYTHING)))

    def of(self, base: Base, text: str, vector: Floats) -> float:
        """Probability that the base speaks of it; 0 where there is nothing in the base.

        Args:
            vector: Of the text, as `vectors` makes them.
        """
        if not base.sketch.texts:
            return 0.0
        asked = words(text)
        together, anywhere = self.shared(base.sketch, asked)
        if len(asked) >= _SENTENCE and anywhere < 0.5 and not _among(self.hashes, asked)[1].any():
            return UNTOLD  # in another language than the base, perhaps
        near = nearest(self.background.vectors, vector, USUAL)
        nearer = float((base.vectors @ vector).max()) - near
        score = self.score((together, anywhere, nearer)) - base.even
        return chance(score)

    def score(self, features: Sequence[float]) -> float:
        """Log-odds, before a base's own scores are taken into account."""
        *weights, offset = self.weights
        return offset + math.fsum(map(mul, features, weights))

    def features(
        self, sketch: Sketch, asked: Hashes, vector: Floats, near: float
    ) -> tuple[float, float, float]:
        """What is weighed: words in one block, words anywhere (shares), nearness (cosines).

        Args:
            asked: Hashes of the question's words.
            near: How near the question is to those about anything.
        """
        return *self.shared(sketch, asked), nearest(sketch.vectors, vector, 1) - near

    def shared(self, sketch: Sketch, asked: Hashes) -> tuple[float, float]:
        """The shares of words in one block, and anywhere."""
        if not len(asked) or not sketch.texts:
            return 0.0, 0.0
        at, there = _among(sketch.hashes, asked)
        counts = sketch.counts[at] * there
        blocks = sketch.blocks[at] * there
        rarity = np.minimum(
            np.log1p(sketch.texts / np.maximum(counts, _UNSEEN)), self._rarity(asked)
        )
        total = float(rarity.sum()) + 1e-6
        bits = np.unpackbits(blocks.view(np.uint8).reshape(len(asked), BLOCKS // 8), axis=1)
        return float((rarity @ bits).max()) / total, float(rarity @ there) / total

    def _rarity(self, asked: Hashes) -> Floats:
        at, known = _among(self.hashes, asked)
        return np.where(known, self.rarities[at], np.float32(self.unknown))

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.numpy import save_file

        about = self.background
        tensors: dict[str, npt.NDArray[Any]] = {
            "weights": np.array(self.weights, np.float32),
            "axes": self.axes,
            "background": about.vectors.astype(np.float16),
            "words": np.concatenate(about.words),
            "lengths": np.array([len(each) for each in about.words], np.uint32),
            "near": about.near,
            "hashes": self.hashes,
            "rarities": self.rarities,
            "unknown": np.array([self.unknown], np.float32),
        }
        save_file(tensors, path, metadata={"format": FORMAT})

    @classmethod
    def load(cls, path: Path = SHIPPED) -> Coverage:
        """Read what `save` wrote.

        Raises:
            SettingsError: The file is missing, damaged, or of another format.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                if (found := (file.metadata() or {}).get("format")) != FORMAT:
                    raise ValueError(f"its format is {found!r}, not {FORMAT!r}")
                read = {name: file.get_tensor(name) for name in list(file.keys())}
            ends = np.cumsum(read["lengths"])[:-1]
            return cls(
                tuple(read["weights"].tolist()),
                read["axes"],
                Background(
                    read["background"].astype(np.float32),
                    np.split(read["words"], ends),
                    read["near"],
                ),
                read["hashes"],
                read["rarities"],
                float(read["unknown"][0]),
                hashlib.sha256(path.read_bytes()).hexdigest()[:12],
            )
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise SettingsError(f"{path}: the coverage model cannot be read ({error})") from None


def _among(sorted_hashes: Hashes, asked: Hashes) -> tuple[Places, npt.NDArray[np.bool_]]:
    """Where each word stands in a list, and whether it does."""
    at = np.minimum(sorted_hashes.searchsorted(asked), len(sorted_hashes) - 1)
    return at, sorted_hashes[at] == asked


def nearest(texts: npt.NDArray[np.floating], vector: Floats, count: int) -> float:
    """Mean cosine of the nearest few."""
    cosines: Floats = texts.astype(np.float32, copy=False) @ vector
    few = min(count, len(cosines))
    cosines.partition(-few)
    return float(cosines[-few:].sum()) / few
