"""The router's encoder file, made once at set-up: MiniLM, narrowed, fused and quantised to int8.

It keeps two attention heads of three and one feed-forward neuron of three. `tools/narrow.py` makes
`narrow.safetensors`, its layers: embeddings have a cosine of .98 with the whole model's.
Quantisation is dynamic and per output channel (one scale per matrix costs more, docs/lab-notes.md):
a cosine of .997 with the unquantised ones.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

from serve_app.router.encoder import LAYERS, MODEL_FILE, TOKENIZER_FILE

NARROW = Path(__file__).with_name("narrow.safetensors")
HEAD = 32  # numbers of an attention head


def narrowed(source: Path) -> Any:
    """all-MiniLM-L6-v2 of transformers with the layers of `narrow.safetensors` in place of its own.

    Args:
        source: Folder of all-MiniLM-L6-v2.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel

    model = AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    for name, weights in load_file(NARROW).items():
        owner, _, kind = name.rpartition(".")
        parameter = torch.nn.Parameter(weights.float())
        setattr(model.encoder.layer.get_submodule(owner), kind, parameter)
    return model


def export(source: Path, target: Path) -> None:
    """Write the int8 model and its tokenizer into the folder `target`.

    Args:
        source: Folder of all-MiniLM-L6-v2.
    """
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    class Pooled(torch.nn.Module):
        """Mean-pooled, normalised states of each of `LAYERS`."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = narrowed(source)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
            ).hidden_states
            mask = attention_mask.unsqueeze(-1).to(states[0].dtype)
            count = mask.sum(1).clamp(min=1e-9)
            means = [(states[layer] * mask).sum(1) / count for layer in LAYERS]
            return torch.nn.functional.normalize(torch.stack(means, 1), dim=-1)

    example = torch.tensor([[101, 7592, 2088, 102], [101, 2054, 2003, 102]])
    batch, length = {0: "batch"}, {0: "batch", 1: "length"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Pooled()
        torch.onnx.export(
            model,
            (example, torch.ones_like(example)),
            str(target / "encoder.onnx"),
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
        attended = model.encoder.encoder.layer[0].attention.self.query.weight.shape[0]
        optimize_model(
            str(target / "encoder.onnx"),
            "bert",
            num_heads=attended // HEAD,
            hidden_size=attended,
            optimization_options=fusions,
            opt_level=0,
        ).save_model_to_file(str(target / "encoder.onnx"))
        quantize_dynamic(
            target / "encoder.onnx",
            target / MODEL_FILE,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Seven bits: eight overflow on CPUs without VNNI, and heads must mean the same
            # everywhere.
            reduce_range=True,
            # Of the fused nodes' outputs, which shape inference does not know.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    (target / "encoder.onnx").unlink()
    shutil.copyfile(source / TOKENIZER_FILE, target / TOKENIZER_FILE)
