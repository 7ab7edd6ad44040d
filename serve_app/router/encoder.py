"""The router's sentence encoder: MiniLM on ONNX Runtime, quantised to int8.

One pass gives the mean of the token states after the third, fourth and fifth of its six layers. The
earlier ones know more of how a question is put (does its answer age? how many steps?), the later
ones more of what it is about; each head reads the layers that serve it. The sixth adds nothing that
the heads need, and is left out. `docs/lab-notes.md` has the figures; `export` makes the file.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Encoding

Floats = npt.NDArray[np.float32]

VERSION = 8  # of the exported file
LAYERS = (3, 4, 5)
WIDTH = 384
MODEL_FILE = "encoder.int8.onnx"
TOKENIZER_FILE = "tokenizer.json"
_UNKNOWN = "[UNK]"

# Rows of like length share a pass, so that a short question never pays for a long one's padding:
# a pass costs as much as this many tokens, whatever is in it.
_PASS_IN_TOKENS = 6
_ROWS_PER_PASS = 16
_TAIL = 4  # of a long text the last quarter of what is read is its end
_CHARACTERS = 16  # taken for each token that is read; of longer ones fewer are read


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts as the heads read them.

    Attributes:
        layers: Shape (texts, len(LAYERS), WIDTH); every vector has length 1.
        pieces: The ids of the word pieces of each text.
        read: Share of each text's letters that are in the encoder's script.
    """

    layers: Floats
    pieces: list[list[int]]
    read: list[float]

    def take(self, rows: Sequence[int]) -> Encoded:
        """The given rows, in the given order."""
        chosen = list(rows)
        if chosen == list(range(len(self.pieces))):
            return self
        return Encoded(
            self.layers[chosen],
            [self.pieces[row] for row in chosen],
            [self.read[row] for row in chosen],
        )


class Encoder:
    """Texts to vectors. Thread-safe; releases the GIL while it computes."""

    def __init__(self, folder: Path, *, max_tokens: int, threads: int) -> None:
        import onnxruntime as ort
        from tokenizers import Tokenizer

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would steal the cores that vLLM decodes on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(
            str(folder / MODEL_FILE),
            options,
            # Its fused kernel is slower on CPUs than the two it replaces (docs/lab-notes.md).
            disabled_optimizers=["SkipLayerNormFusion"],
        )
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_tokens = max_tokens
        vocabulary = self._tokenizer.get_vocab()
        self._strange = np.zeros(max(vocabulary.values()) + 1, dtype=bool)
        for piece, number in vocabulary.items():
            self._strange[number] = piece == _UNKNOWN or not _is_latin(piece)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Embed texts; a long one is cut in its middle."""
        whole = [self._cut(text) for text in texts]
        encodings = self._tokenizer.encode_batch(whole)
        pieces = [self._shorten(encoding.ids) for encoding in encodings]
        layers = np.zeros((len(texts), len(LAYERS), WIDTH), dtype=np.float32)
        for rows in passes([len(ids) for ids in pieces]):
            layers[rows] = self._pass([pieces[row] for row in rows])
        read = [self._read(each, text) for each, text in zip(encodings, whole, strict=True)]
        return Encoded(layers, pieces, read)

    def _cut(self, text: str) -> str:
        """What may be read of a text: the tokens that stay are not those of its middle."""
        most = self._max_tokens * _CHARACTERS
        if len(text) <= most:
            return text
        tail = most // _TAIL
        return f"{text[: most - tail]} {text[-tail:]}"

    def _read(self, encoding: Encoding, text: str) -> float:
        """Share of the letters in pieces that the encoder learned as parts of words."""
        if text.isascii():
            return 1.0
        strange = self._strange[encoding.ids]
        offsets = encoding.offsets
        spans = (offsets[number] for number in np.flatnonzero(strange))
        unread = sum(_letters(text[start:end]) for start, end in spans)
        return 1.0 - unread / max(_letters(text), unread, 1)

    def _pass(self, pieces: list[list[int]]) -> Floats:
        input_ids = np.zeros((len(pieces), len(pieces[-1])), dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for i, ids in enumerate(pieces):
            input_ids[i, : len(ids)] = ids
            mask[i, : len(ids)] = 1
        (layers,) = self._session.run(None, {"input_ids": input_ids, "attention_mask": mask})
        return np.asarray(layers, dtype=np.float32)

    def _shorten(self, ids: list[int]) -> list[int]:
        if len(ids) <= self._max_tokens:
            return ids
        tail = self._max_tokens // _TAIL
        return ids[: self._max_tokens - tail] + ids[-tail:]


def _is_latin(text: str) -> bool:
    """Whether all letters are of the script that the encoder was trained on.

    It knows single letters of others, but no words: MiniLM has read English.
    """
    return all(unicodedata.name(each, "").startswith("LATIN") for each in text if each.isalpha())


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def passes(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Which rows share a pass, shortest first; the last of each is its longest."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        padding = len(rows) * (lengths[row] - lengths[rows[-1]]) if rows else 0
        if padding > _PASS_IN_TOKENS or len(rows) == _ROWS_PER_PASS:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
