"""MiniLM with layers of our own in place of its own, and its way to int8 on ONNX Runtime."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

HEAD = 32  # numbers of an attention head
WIDTH = 384
TOKENIZER_FILE = "tokenizer.json"


def with_layers(source: Path, layers: Path) -> Any:
    """all-MiniLM-L6-v2 of transformers, the first of its layers taken from a file.

    Args:
        source: Folder of all-MiniLM-L6-v2.
        layers: Weights of `encoder.layer`, as safetensors.
    """
    from safetensors.torch import load_file
    from transformers import AutoModel

    model = AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    replace_layers(model, load_file(layers))
    return model


def replace_layers(model: Any, layers: Mapping[str, torch.Tensor]) -> None:
    """Give a model layers of other widths than its configuration tells."""
    import torch

    for name, weights in layers.items():
        owner, _, kind = name.rpartition(".")
        parameter = torch.nn.Parameter(weights.float())
        setattr(model.encoder.layer.get_submodule(owner), kind, parameter)


def to_int8(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Mapping[str, Sequence[str]],
    heads: int,
    target: Path,
) -> None:
    """Write a module around a MiniLM as a fused int8 ONNX file.

    Quantisation is dynamic and per output channel: one scale per matrix costs more.

    Args:
        module: Takes `inputs` in their order.
        inputs: An example of each, of shape (batch, length).
        outputs: The names of the axes that may change, of each.
        heads: Attention heads of a layer.
    """
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    whole = target.with_suffix(".whole.onnx")
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "length"} for name in inputs}
    axes |= {name: dict(enumerate(names)) for name, names in outputs.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(whole),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
        fusions = FusionOptions("bert")
        fusions.enable_skip_layer_norm = False
        fusions.enable_bias_skip_layer_norm = False
        # Embeddings would be quantised too, and cost a cosine of .015.
        fusions.enable_embed_layer_norm = False
        optimize_model(
            str(whole),
            "bert",
            num_heads=heads,
            hidden_size=heads * HEAD,
            optimization_options=fusions,
            opt_level=0,
        ).save_model_to_file(str(whole))
        quantize_dynamic(
            whole,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Seven bits: eight overflow on CPUs without VNNI, and weights must mean the same
            # everywhere.
            reduce_range=True,
            # Of the fused nodes' outputs, which shape inference does not know.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    whole.unlink()


def heads_of(model: Any) -> int:
    """Attention heads of a model's layers."""
    return int(model.encoder.layer[0].attention.self.query.weight.shape[0]) // HEAD


def copy_tokenizer(source: Path, target: Path) -> None:
    shutil.copyfile(source / TOKENIZER_FILE, target / TOKENIZER_FILE)
