"""The router's sentence encoder: MiniLM on ONNX Runtime, quantised to int8.

One pass gives the mean of the token states after the third, fourth and fifth of its six layers. The
earlier ones know more of how a question is put (does its answer age? how many steps?), the later
ones more of what it is about; each head reads the layers that serve it. The sixth adds nothing that
the heads need, and is left out. `docs/lab-notes.md` has the figures.

`export` makes the model file once, at set-up. Quantisation is dynamic and per output channel:
embeddings keep a cosine of .985–.994 with the original's, where one scale per matrix gives .94.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serve_app.router.turns import cut

Floats = npt.NDArray[np.float32]

VERSION = 5  # of the exported file
LAYERS = (3, 4, 5)
WIDTH = 384
MODEL_FILE = "encoder.int8.onnx"
TOKENIZER_FILE = "tokenizer.json"

# Rows of like length share a pass, so that a short question never pays for a long one's padding:
# a pass costs as much as this many tokens, whatever is in it.
_PASS_IN_TOKENS = 6
_ROWS_PER_PASS = 16


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts as the heads read them.

    Attributes:
        layers: Shape (texts, len(LAYERS), WIDTH); every vector has length 1.
        pieces: The ids of the word pieces of each text.
    """

    layers: Floats
    pieces: list[list[int]]

    def take(self, rows: Sequence[int]) -> Encoded:
        """The given rows, in the given order."""
        return Encoded(self.layers[list(rows)], [self.pieces[row] for row in rows])


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

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Embed texts; a long one is cut in its middle."""
        encodings = self._tokenizer.encode_batch([cut(text) for text in texts])
        pieces = [self._shorten(encoding.ids) for encoding in encodings]
        layers = np.zeros((len(texts), len(LAYERS), WIDTH), dtype=np.float32)
        for rows in passes([len(ids) for ids in pieces]):
            layers[rows] = self._pass([pieces[row] for row in rows])
        return Encoded(layers, pieces)

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
        tail = self._max_tokens // 4
        return ids[: self._max_tokens - tail] + ids[-tail:]


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


def export(source: Path, target: Path) -> None:
    """Write the int8 model and its tokenizer to `target`; complete or not at all.

    Args:
        source: Folder of a BERT-like sentence-transformers model.
    """
    import shutil
    import warnings

    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model
    from transformers import AutoModel

    class Pooled(torch.nn.Module):
        """Mean-pooled, normalised states of each of `LAYERS`."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(source, attn_implementation="eager").eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
            ).hidden_states
            mask = attention_mask.unsqueeze(-1).to(states[0].dtype)
            count = mask.sum(1).clamp(min=1e-9)
            means = [(states[layer] * mask).sum(1) / count for layer in LAYERS]
            return torch.nn.functional.normalize(torch.stack(means, 1), dim=-1)

    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        example = torch.tensor([[101, 7592, 2088, 102], [101, 2054, 2003, 102]])
        batch, length = {0: "batch"}, {0: "batch", 1: "length"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = Pooled()
            torch.onnx.export(
                model,
                (example, torch.ones_like(example)),
                str(work / "encoder.onnx"),
                input_names=["input_ids", "attention_mask"],
                output_names=["layers"],
                dynamic_axes={
                    "input_ids": length,
                    "attention_mask": length,
                    "layers": batch,
                },
                opset_version=17,
                dynamo=False,
            )
            fusions = FusionOptions("bert")
            fusions.enable_skip_layer_norm = False
            fusions.enable_bias_skip_layer_norm = False
            # Its embeddings would be quantised too, and cost a cosine of .015.
            fusions.enable_embed_layer_norm = False
            shape = model.encoder.config
            optimize_model(
                str(work / "encoder.onnx"),
                "bert",
                num_heads=shape.num_attention_heads,
                hidden_size=shape.hidden_size,
                optimization_options=fusions,
                opt_level=0,
            ).save_model_to_file(str(work / "encoder.onnx"))
            quantize_dynamic(
                work / "encoder.onnx",
                work / MODEL_FILE,
                weight_type=QuantType.QInt8,
                per_channel=True,
                # Seven bits: eight overflow on CPUs without VNNI, and heads must mean the same
                # everywhere.
                reduce_range=True,
                # Of the fused nodes' outputs, which shape inference does not know.
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
        (work / "encoder.onnx").unlink()
        shutil.copyfile(source / TOKENIZER_FILE, work / TOKENIZER_FILE)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
