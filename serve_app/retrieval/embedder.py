"""The embedding model, by sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class Embedder:
    """Texts to unit vectors; blocking. `dimension` is their length."""

    def __init__(self, model: str | Path) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(model), device="cpu")
        self.dimension = int(self._model.get_sentence_embedding_dimension() or 0)

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        vectors = self._model.encode(
            list(texts),
            normalize_embeddings=True,
            show_progress_bar=False,
            batch_size=32,
        )
        return [[float(x) for x in vector] for vector in vectors]
