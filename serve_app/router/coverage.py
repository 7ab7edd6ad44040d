"""Whether a tenant's knowledge base speaks of what is asked, by its sketch.

Three things tell it, weighed by a logistic regression that was fitted to questions and bases of
several kinds (`tools/coverage.py`): how many of the question's words, by their rarity, stand in one
block of the base; how many stand anywhere in it; and how much nearer the question is to the base's
texts than to questions about anything at all.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serve_app.errors import SettingsError
from serve_app.router.encoder import Encoded, Floats
from serve_app.router.heads import FIT_LAYERS, dense
from serve_app.sketches import BLOCKS, Hashes, Sketch, words

SHIPPED = Path(__file__).with_name("coverage.safetensors")
FORMAT = "trivium-router-coverage/1"
NEAREST = 5

_UNSEEN = 0.5  # texts that a word stands in which stands in none


def vectors(encoded: Encoded) -> Floats:
    """Texts as sketches and this model read them: shape (texts, width), of length 1."""
    return np.asarray(dense(encoded, FIT_LAYERS) / np.sqrt(len(FIT_LAYERS)), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Coverage:
    """The fitted model.

    Attributes:
        weights: Of the features of `features`, and the offset.
        background: Vectors of questions about anything.
        hashes: Of words that many questions have, ascending.
        rarities: Of each: the logarithm of how few questions have it.
        unknown: The same of every other word.
        version: The same for the same file; empty before there is one.
    """

    weights: Floats
    background: Floats
    hashes: Hashes
    rarities: Floats
    unknown: float
    version: str = ""

    def of(self, sketch: Sketch, text: str, vector: Floats) -> float:
        """Probability that the base speaks of it; 0 where there is nothing in the base.

        Args:
            vector: Of the text, as `vectors` makes them.
        """
        if not sketch.texts:
            return 0.0
        logit = float(self.features(sketch, text, vector) @ self.weights[:-1] + self.weights[-1])
        return 1.0 / (1.0 + float(np.exp(-np.clip(logit, -30, 30))))

    def features(self, sketch: Sketch, text: str, vector: Floats) -> Floats:
        """What is weighed: words in one block, words anywhere (shares), nearness (cosines)."""
        asked = words(text)
        counts, blocks = _found(sketch, asked)
        rarity = np.minimum(
            np.log1p(sketch.texts / np.maximum(counts, _UNSEEN)), self._rarity(asked)
        )
        total = float(rarity.sum()) + 1e-6
        bits = np.unpackbits(blocks.view(np.uint8).reshape(len(asked), BLOCKS // 8), axis=1)
        together = float((rarity @ bits).max()) if len(asked) else 0.0
        anywhere = float(rarity[counts > 0].sum())
        near = _nearest(sketch.vectors, vector) - _nearest(self.background, vector)
        return np.array([together / total, anywhere / total, near], dtype=np.float32)

    def _rarity(self, asked: Hashes) -> Floats:
        at = np.searchsorted(self.hashes, asked).clip(max=len(self.hashes) - 1)
        known = self.hashes[at] == asked
        return np.where(known, self.rarities[at], np.float32(self.unknown))

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.numpy import save_file

        tensors = {
            "weights": self.weights,
            "background": self.background.astype(np.float16),
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
            return cls(
                read["weights"],
                read["background"].astype(np.float32),
                read["hashes"],
                read["rarities"],
                float(read["unknown"][0]),
                hashlib.sha256(path.read_bytes()).hexdigest()[:12],
            )
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise SettingsError(f"{path}: the coverage model cannot be read ({error})") from None


def _found(sketch: Sketch, asked: Hashes) -> tuple[Hashes, npt.NDArray[np.uint64]]:
    """In how many texts each word stands, and in which blocks."""
    at = np.searchsorted(sketch.hashes, asked).clip(max=len(sketch.hashes) - 1)
    there = sketch.hashes[at] == asked
    return (
        np.where(there, sketch.counts[at], np.uint32(0)),
        np.where(there, sketch.blocks[at], np.uint64(0)),
    )


def _nearest(texts: npt.NDArray[np.floating], vector: Floats) -> float:
    """Mean cosine of the nearest few."""
    cosines = texts.astype(np.float32) @ vector
    few = min(NEAREST, len(cosines))
    return float(np.partition(cosines, -few)[-few:].mean())
