"""The cross-encoder on ONNX Runtime. Blocking; thread-safe; releases the GIL while it computes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from serve_app.domain import Entailment, Reading
from serve_app.minilm import TOKENIZER_FILE
from serve_app.retrieval.cross_encoder.export import MODEL_FILE

if TYPE_CHECKING:
    from tokenizers import Encoding

WINDOW = 256  # tokens of a pair
_STRIDE = 64  # of a longer passage's windows, tokens that two share
_QUESTION = 400  # characters that are read of a question or claim
_PASSAGE = 16_000
_PER_PASS = 16
_LONGEST_ANSWER = 30  # tokens


@dataclass(frozen=True, slots=True)
class _Window:
    pair: int
    encoding: Encoding


class CrossEncoder:
    """Reads pairs of texts; of a passage above the window, each part.

    Args:
        folder: As `export` writes it.
        threads: Cores that one call may use.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        import onnxruntime as ort
        from tokenizers import Tokenizer

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(
            str(folder / MODEL_FILE), options, disabled_optimizers=["SkipLayerNormFusion"]
        )
        # Set once: threads share it from here on.
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(WINDOW, stride=_STRIDE, strategy="only_second")

    def __call__(self, query: str, texts: Sequence[str]) -> list[float]:
        """As a reranker: the probability that each text answers."""
        return [each.probability for each in self.read(query, texts)]

    def read(self, question: str, passages: Sequence[str]) -> list[Reading]:
        """What each passage says to the question."""
        found = [Reading(0.0, 0, 0)] * len(passages)
        for window, (answers, _, spans) in self._passes([(question, each) for each in passages]):
            probability = float(1 / (1 + np.exp(-answers)))
            if probability > found[window.pair].probability:
                start, end = _span(window.encoding, spans)
                found[window.pair] = Reading(probability, start, end)
        return found

    def check(self, claims: Sequence[tuple[str, str]]) -> list[Entailment]:
        """What each passage says to the claim before it; of its parts the one that says most."""
        found = [Entailment(0.0, 0.0, 1.0)] * len(claims)
        for window, (_, logits, _) in self._passes(claims):
            shares = np.exp(logits - logits.max())
            one, two, three = (shares / shares.sum()).tolist()
            if three <= found[window.pair].not_stated:
                found[window.pair] = Entailment(one, two, three)
        return found

    def _passes(
        self, pairs: Sequence[tuple[str, str]]
    ) -> Iterable[tuple[_Window, tuple[npt.NDArray[np.float32], ...]]]:
        """Each window, and what the heads say of it; those of like length share a pass."""
        cut = [(one[:_QUESTION], two[:_PASSAGE]) for one, two in pairs]
        encodings = self._tokenizer.encode_batch(cut) if cut else []
        windows = [
            _Window(pair, part)
            for pair, whole in enumerate(encodings)
            for part in (whole, *whole.overflowing)
        ]
        windows.sort(key=lambda each: len(each.encoding))
        for at in range(0, len(windows), _PER_PASS):
            together = windows[at : at + _PER_PASS]
            made = self._session.run(None, _inputs([each.encoding for each in together]))
            for row, window in enumerate(together):
                yield window, tuple(each[row] for each in made)


def _inputs(encodings: Sequence[Any]) -> dict[str, npt.NDArray[np.int64]]:
    longest = max(map(len, encodings))
    ids, kinds, mask = (np.zeros((len(encodings), longest), np.int64) for _ in range(3))
    for row, each in enumerate(encodings):
        ids[row, : len(each)] = each.ids
        kinds[row, : len(each)] = each.type_ids
        mask[row, : len(each)] = 1
    return {"input_ids": ids, "token_type_ids": kinds, "attention_mask": mask}


class Once:
    """Loads a cross-encoder when it is first asked for. Thread-safe."""

    def __init__(self, load: Callable[[], CrossEncoder]) -> None:
        self._load = load
        self._loaded: CrossEncoder | None = None
        self._loading = threading.Lock()

    def __call__(self) -> CrossEncoder:
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded


def _span(encoding: Encoding, spans: npt.NDArray[np.float32]) -> tuple[int, int]:
    """Where in the passage the likeliest answer stands, in characters."""
    within = [
        at
        for at, (kind, (start, end)) in enumerate(
            zip(encoding.type_ids, encoding.offsets, strict=True)
        )
        if kind == 1 and end > start
    ]
    if not within:
        return 0, 0
    starts, ends = spans[within, 0], spans[within, 1]
    scores = np.full((len(within), len(within)), -np.inf, np.float32)
    for length in range(min(_LONGEST_ANSWER, len(within))):
        rows = np.arange(len(within) - length)
        scores[rows, rows + length] = starts[rows] + ends[rows + length]
    first, last = np.unravel_index(int(scores.argmax()), scores.shape)
    return encoding.offsets[within[int(first)]][0], encoding.offsets[within[int(last)]][1]
