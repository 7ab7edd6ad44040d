"""The router's sentence encoder: MiniLM on ONNX Runtime, quantised to int8.

`export` makes the model file once, at set-up. Quantisation is dynamic and per output channel:
embeddings keep a cosine of .985–.995 with the original's, where one scale per matrix gives .94.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float32]

MODEL_FILE = "encoder.int8.onnx"
TOKENIZER_FILE = "tokenizer.json"


class Encoder:
    """Texts to unit vectors. Thread-safe; releases the GIL while it computes."""

    def __init__(self, folder: Path, *, max_tokens: int, threads: int) -> None:
        import onnxruntime as ort
        from tokenizers import Tokenizer

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would steal the cores that vLLM decodes on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(folder / MODEL_FILE), options)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_tokens = max_tokens

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts.

        A long text is cut in its middle: what is asked stands at its head or at its tail.

        Returns:
            Array of shape (len(texts), 384), rows of length 1.
        """
        encodings = self._tokenizer.encode_batch([_cut(text, self._max_tokens) for text in texts])
        ids = [self._shorten(encoding.ids) for encoding in encodings]
        width = max(len(row) for row in ids)
        input_ids = np.zeros((len(ids), width), dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for i, row in enumerate(ids):
            input_ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        (embedding,) = self._session.run(None, {"input_ids": input_ids, "attention_mask": mask})
        return np.asarray(embedding, dtype=np.float32)

    def _shorten(self, ids: list[int]) -> list[int]:
        if len(ids) <= self._max_tokens:
            return ids
        tail = self._max_tokens // 4
        return ids[: self._max_tokens - tail] + ids[-tail:]


def _cut(text: str, max_tokens: int) -> str:
    """Bound the tokenizer's work: no token of a pasted megabyte's middle would be read anyway."""
    bound = max_tokens * 16
    if len(text) <= 2 * bound:
        return text
    return f"{text[:bound]} {text[-bound:]}"


def export(source: Path, target: Path) -> None:
    """Write the int8 model and its tokenizer to `target`; complete or not at all.

    Args:
        source: A sentence-transformers model folder with mean pooling.
    """
    import shutil
    import warnings

    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    class Pooled(torch.nn.Module):
        """The encoder with mean pooling and normalisation, as sentence-transformers has them."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(source, attn_implementation="eager").eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
            mask = attention_mask.unsqueeze(-1).to(output.last_hidden_state.dtype)
            mean = (output.last_hidden_state * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=-1)

    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        example = torch.tensor([[101, 7592, 2088, 102], [101, 2054, 2003, 102]])
        batch, length = {0: "batch"}, {0: "batch", 1: "length"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Pooled(),
                (example, torch.ones_like(example)),
                str(work / "encoder.onnx"),
                input_names=["input_ids", "attention_mask"],
                output_names=["embedding"],
                dynamic_axes={
                    "input_ids": length,
                    "attention_mask": length,
                    "embedding": batch,
                },
                opset_version=17,
                dynamo=False,
            )
            quantize_dynamic(
                work / "encoder.onnx",
                work / MODEL_FILE,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
        (work / "encoder.onnx").unlink()
        shutil.copyfile(source / TOKENIZER_FILE, work / TOKENIZER_FILE)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
