"""Embedding models and rerankers, by sentence-transformers. Blocking; loaded when first used."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl

from serve_app.errors import SettingsError
from serve_app.settings import EmbeddingSettings

_PASSAGE = ("document", "passage", "corpus")  # what models call its prompt
# Where a model's files tell how much it reads, the first that does.
_LONGEST = (
    ("sentence_bert_config.json", "max_seq_length"),
    ("tokenizer_config.json", "model_max_length"),
    ("config.json", "max_position_embeddings"),
)


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


class Tokens:
    """Counts a text's tokens as an embedding model does, without loading it.

    Its tokenizer is its own and never changes, so that threads may share it. The one within a model
    is told to truncate and to pad as it embeds: who counts with it gets wrong numbers, or errors.

    Attributes:
        window: Tokens of a text that the model reads, without the marks of its ends; the rest is
            cut off. None where its files do not say.
    """

    def __init__(self, model: str | Path) -> None:
        fast = _tokenizer(str(model))
        fast.no_padding()
        fast.no_truncation()
        self._tokenizer = fast
        longest = _longest(str(model))
        self.window = longest and longest - fast.num_special_tokens_to_add(is_pair=False)

    def __call__(self, text: str) -> int:
        """Tokens of a text, without those that mark its ends."""
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])


@dataclass(frozen=True, slots=True)
class Model:
    """An embedding model, and what is done with its vectors.

    Collections know it by its name: `e5-small?dimension=256&passage_prompt=passage%3A+` tells all
    that changes the vectors, so that a collection is read as it was made whatever is set now.

    Attributes:
        files: Its folder, or its id on the hub.
        query_prompt, passage_prompt: What stands before each query, or passage; `None`: what the
            model's own files say.
        dimension: Numbers that are kept of a vector; `None`: all.
    """

    files: str
    query_prompt: str | None = None
    passage_prompt: str | None = None
    dimension: int | None = None

    @classmethod
    def named(cls, name: str, paths: Mapping[str, str]) -> Self:
        """The model of a name.

        Args:
            paths: Folder or hub id of names that are not one themselves.

        Raises:
            SettingsError: The name tells of something else.
        """
        base, _, told = name.partition("?")
        values = dict(parse_qsl(told, keep_blank_values=True))
        dimension = values.pop("dimension", None)
        try:
            return cls(
                paths.get(base, base), dimension=int(dimension) if dimension else None, **values
            )
        except (TypeError, ValueError):
            raise SettingsError(f"{name!r} is no embedding model's name") from None

    @property
    def prompts(self) -> tuple[str, str]:
        """Before a query and before a passage."""
        try:
            file = _file(self.files, "config_sentence_transformers.json")
            told = json.loads(file.read_text(encoding="utf-8")).get("prompts") or {}
        except (OSError, ValueError):
            told = {}
        passage = next((told[name] for name in _PASSAGE if told.get(name)), "")
        own = (self.query_prompt, self.passage_prompt)
        query, passage = (
            theirs if mine is None else mine
            for mine, theirs in zip(own, (told.get("query") or "", passage), strict=True)
        )
        return query, passage

    def window(self, count: Tokens) -> int | None:
        """Tokens of a passage that are read, behind its prompt."""
        prompt = self.prompts[1]
        taken = count(prompt) if prompt else 0
        return count.window and count.window - taken


class SentenceEmbedder:
    """Texts to unit vectors.

    Attributes:
        dimension: Their length.
        count: Tokens of a text.
        window: Tokens of a passage that are read.
    """

    def __init__(self, model: Model, batch_size: int = 32) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(model.files, device="cpu", truncate_dim=model.dimension)
        self._batch_size = batch_size
        self._query, self._passage = model.prompts
        self.dimension = int(self._model.get_embedding_dimension() or 0)
        self.count = Tokens(model.files)
        self.window = model.window(self.count)
        # The first call sets how the tokenizer truncates; later ones, of any thread, find it set.
        self(["."])

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of passages."""
        return self._vectors([self._passage + each for each in texts])

    def queries(self, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of queries."""
        return self._vectors([self._query + each for each in texts])

    def beside(self, query: str, texts: Sequence[str]) -> list[list[float]]:
        """The vector of a query, and those of passages behind it; in one pass."""
        passages = [self._passage + each for each in texts]
        return self._vectors([self._query + query, *passages])

    def _vectors(self, texts: Sequence[str]) -> list[list[float]]:
        vectors = self._model.encode(
            list(texts),
            normalize_embeddings=True,
            show_progress_bar=False,
            batch_size=self._batch_size,
        )
        return [list(map(float, vector)) for vector in vectors]


def _longest(model: str) -> int | None:
    """Tokens of a text that a model reads, with those that mark its ends."""
    for name, key in _LONGEST:
        try:
            told = json.loads(_file(model, name).read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError):
            continue
        # Where there is no bound, tokenizers write a number of thirty digits.
        if isinstance(told, int) and 0 < told < 10**7:
            return told
    return None


def _file(model: str, name: str) -> Path:
    """A file of a model in a folder, or of one of the hub."""
    if Path(model).is_dir():
        return Path(model) / name
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(model, name))


def _tokenizer(model: str) -> Any:
    from tokenizers import Tokenizer

    file = Path(model) / "tokenizer.json"
    if file.is_file():
        return Tokenizer.from_file(str(file))
    from transformers import AutoTokenizer  # of the hub, or kept in another form

    return AutoTokenizer.from_pretrained(model).backend_tokenizer


def dimension(model: Model) -> int:
    """Length of a model's vectors. Where its files tell it, the model is not loaded for it."""
    if model.dimension:
        return model.dimension
    folder = Path(model.files)
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = {each["type"].rpartition(".")[2]: each["path"] for each in modules}
        if kinds.keys() <= {"Transformer", "Pooling", "Normalize"}:
            path = folder / kinds["Pooling"] / "config.json"
            config = json.loads(path.read_text(encoding="utf-8"))
            modes = [on for name, on in config.items() if name.startswith("pooling_mode_")]
            if sum(modes) == 1:  # several are put end to end
                return int(config["word_embedding_dimension"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # another layout of files, or a model of the hub
    return SentenceEmbedder(model).dimension


def check_window(chunk_tokens: int, model: str, window: int | None) -> None:
    """That a chunk fits into what the model reads.

    Raises:
        SettingsError: It does not; names the setting, the model and the most there can be.
    """
    if window is not None and chunk_tokens > window:
        raise SettingsError(
            f"retrieval.chunk_tokens (or --chunk-tokens) is {chunk_tokens}, but the embedding "
            f"model {model!r} reads {window} tokens and cuts off the rest: {window} at most"
        )


class EmbeddingModels:
    """Models by their name in the settings; each is loaded once.

    Args:
        paths: Folder or hub id of names that are not one themselves.
        run: How they are run.
    """

    def __init__(
        self,
        default: str,
        paths: Mapping[str, str],
        run: EmbeddingSettings = EmbeddingSettings(),  # noqa: B008  # frozen
    ) -> None:
        self.default = default
        self._paths = paths
        self._run = run
        self._loaded: dict[str, SentenceEmbedder] = {}
        self._loading = threading.Lock()

    def model(self, name: str) -> SentenceEmbedder:
        with self._loading:
            if name not in self._loaded:
                model = Model.named(name, self._paths)
                self._loaded[name] = SentenceEmbedder(model, self._run.batch_size)
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
