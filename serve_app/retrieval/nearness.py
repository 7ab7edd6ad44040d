"""How near texts are to a query. The same sentences are asked about again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve_app.retrieval.preparing import Embedder

_KEPT = 8192  # vectors; 12 MB at 384 dimensions

Vector = NDArray[np.float32]


class Nearness:
    """Cosines of texts with a query; blocking. A text that was seen lately is not embedded again.

    Several threads may call it: at worst they embed the same text twice.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], Vector] = {}

    def __call__(
        self,
        model: str,
        embedder: Embedder,
        query: str,
        texts: Sequence[str],
    ) -> list[float]:
        """
        Args:
            model: Tells the vectors of one embedding model from another's.
        """
        seen = self._seen
        found = {text: seen[model, text] for text in texts if (model, text) in seen}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        asked, *made = np.asarray(embedder.beside(query, new), dtype=np.float32)
        found |= dict(zip(new, made, strict=True))
        self._keep({(model, text): found[text] for text in new})
        return [float(asked @ found[text]) for text in texts]

    def _keep(self, vectors: dict[tuple[str, str], Vector]) -> None:
        if len(self._seen) + len(vectors) > _KEPT:
            self._seen = {}  # starting over now and then is cheaper than counting each use
        self._seen |= vectors
