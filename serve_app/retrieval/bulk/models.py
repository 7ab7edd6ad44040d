"""Embedding models of a bulk run: many a run counts tokens and embeds nothing."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence

from serve_app.retrieval.embedder import Model, SentenceEmbedder, Tokens, dimension
from serve_app.settings import EmbeddingSettings


class LazyModels:
    """Models by their names; none is loaded before it embeds.

    Args:
        paths: Folder or hub id of names that are not one themselves.
        default: The one for new collections.
        run: How they are run.
    """

    def __init__(
        self,
        paths: Mapping[str, str],
        default: str = "",
        run: EmbeddingSettings = EmbeddingSettings(),  # noqa: B008  # frozen
    ) -> None:
        self._paths = paths
        self._run = run
        self.default = default
        self._made: dict[str, LazyEmbedder] = {}

    def model(self, name: str) -> LazyEmbedder:
        if name not in self._made:
            self._made[name] = LazyEmbedder(Model.named(name, self._paths), self._run)
        return self._made[name]


class LazyEmbedder:
    """As `embedder.SentenceEmbedder`; its tokenizer alone counts."""

    def __init__(self, model: Model, run: EmbeddingSettings) -> None:
        self._model = model
        self._run = run
        self._embedder: SentenceEmbedder | None = None
        self._loading = threading.Lock()

    @functools.cached_property
    def dimension(self) -> int:
        return dimension(self._model)

    @functools.cached_property
    def count(self) -> Tokens:
        return Tokens(self._model.files)

    @property
    def window(self) -> int | None:
        return self._model.window(self.count)

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        return self._loaded()(texts)

    def queries(self, texts: Sequence[str]) -> list[list[float]]:
        return self._loaded().queries(texts)

    def beside(self, query: str, texts: Sequence[str]) -> list[list[float]]:
        return self._loaded().beside(query, texts)

    def _loaded(self) -> SentenceEmbedder:
        with self._loading:
            if self._embedder is None:
                self._embedder = SentenceEmbedder(self._model, self._run.batch_size)
        return self._embedder
