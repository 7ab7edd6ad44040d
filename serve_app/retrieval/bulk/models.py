"""Embedding models of a bulk run: many a run counts tokens and embeds nothing."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.retrieval.embedder import SentenceEmbedder, Tokens, dimension


@dataclass(frozen=True, slots=True)
class Model:
    """An embedding model: its name in the settings, and its folder or hub id."""

    name: str
    path: str


class LazyModels:
    """Models by their names; none is loaded before it embeds.

    Args:
        paths: Folder or hub id of names that are not one themselves.
        default: The one for new collections.
    """

    def __init__(self, paths: Mapping[str, str], default: str = "") -> None:
        self._paths = paths
        self.default = default
        self._made: dict[str, LazyEmbedder] = {}

    def model(self, name: str) -> LazyEmbedder:
        if name not in self._made:
            self._made[name] = LazyEmbedder(self._paths.get(name, name))
        return self._made[name]


class LazyEmbedder:
    """As `embedder.SentenceEmbedder`; its tokenizer alone counts."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._embedder: SentenceEmbedder | None = None
        self._loading = threading.Lock()

    @functools.cached_property
    def dimension(self) -> int:
        return dimension(self._path)

    @functools.cached_property
    def count(self) -> Tokens:
        return Tokens(self._path)

    @property
    def window(self) -> int | None:
        return self.count.window

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        with self._loading:
            if self._embedder is None:
                self._embedder = SentenceEmbedder(self._path)
        return self._embedder(texts)
