"""Embedding models and rerankers, by sentence-transformers. Blocking; loaded when first used."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from serve_app.errors import SettingsError


@contextlib.contextmanager
def loading(name: str) -> Iterator[None]:
    """For a model that has to be there at the start.

    Raises:
        SettingsError: It cannot be loaded; says which, and why.
    """
    try:
        yield
    except Exception as error:  # transformers, safetensors and the hub each have their own
        reason = str(error).strip().partition("\n")[0]
        raise SettingsError(f"the model {name!r} cannot be loaded: {reason}") from error


class SentenceEmbedder:
    """Texts to unit vectors. `dimension` is their length."""

    def __init__(self, model: str | Path) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(model), device="cpu")
        self._tokenizer = self._model.tokenizer
        self.dimension = int(self._model.get_embedding_dimension() or 0)

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        vectors = self._model.encode(
            list(texts),
            normalize_embeddings=True,
            show_progress_bar=False,
            batch_size=32,
        )
        return [list(map(float, vector)) for vector in vectors]

    def count(self, text: str) -> int:
        """Tokens of a text, without those that mark its ends."""
        return len(self._tokenizer.tokenize(text))


def dimension(model: str) -> int:
    """Length of a model's vectors. Where its files tell it, the model is not loaded for it."""
    try:
        modules = json.loads((Path(model) / "modules.json").read_text(encoding="utf-8"))
        kinds = {each["type"].rpartition(".")[2]: each["path"] for each in modules}
        if kinds.keys() <= {"Transformer", "Pooling", "Normalize"}:
            path = Path(model) / kinds["Pooling"] / "config.json"
            config = json.loads(path.read_text(encoding="utf-8"))
            modes = [on for name, on in config.items() if name.startswith("pooling_mode_")]
            if sum(modes) == 1:  # several are put end to end
                return int(config["word_embedding_dimension"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # another layout of files, or a model of the hub
    return SentenceEmbedder(model).dimension


class EmbeddingModels:
    """Models by their name in the settings; each is loaded once.

    Args:
        paths: Folder or hub id of names that are not one themselves.
    """

    def __init__(self, default: str, paths: Mapping[str, str]) -> None:
        self.default = default
        self._paths = paths
        self._loaded: dict[str, SentenceEmbedder] = {}
        self._loading = threading.Lock()

    def model(self, name: str) -> SentenceEmbedder:
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = SentenceEmbedder(self._paths.get(name, name))
            return self._loaded[name]


class CrossEncoder:
    """Query and text read together: dearer than embeddings, and better.

    Raises:
        ValueError: The model gives no score, or was not trained to.
    """

    def __init__(self, model: str | Path) -> None:
        import sentence_transformers

        self._model = sentence_transformers.CrossEncoder(str(model), device="cpu")
        # A bare encoder is loaded too, under a head of random numbers, and orders at random.
        kinds = self._model.config.architectures or []
        if self._model.num_labels != 1 or any(kind.endswith("Model") for kind in kinds):
            raise ValueError("it is no cross-encoder: it has no head that gives one score")

    def __call__(self, query: str, texts: Sequence[str]) -> list[float]:
        scores = self._model.predict([(query, text) for text in texts], show_progress_bar=False)
        return [float(score) for score in scores]
