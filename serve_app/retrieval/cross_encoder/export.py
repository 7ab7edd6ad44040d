"""The file that is served: the network in int8 for ONNX Runtime, and its tokenizer."""

from __future__ import annotations

from pathlib import Path

from serve_app import minilm

SHIPPED = Path(__file__).with_name("weights.safetensors")
MODEL_FILE = "cross_encoder.int8.onnx"


def export(source: Path, weights: Path, target: Path) -> None:
    """Write them into the folder `target`.

    Args:
        source: Folder of all-MiniLM-L6-v2.
        weights: As `Network.save` writes them.
    """
    import torch
    from transformers import AutoModel

    from serve_app.retrieval.cross_encoder.network import Network

    network = Network(AutoModel.from_pretrained(source, attn_implementation="eager"))
    network.load(weights)
    example = torch.tensor([[101, 7592, 102, 2088, 102], [101, 2054, 102, 2003, 102]])
    inputs = {
        "input_ids": example,
        "token_type_ids": torch.tensor([[0, 0, 0, 1, 1]] * 2),
        "attention_mask": torch.ones_like(example),
    }
    minilm.to_int8(
        network.eval(),
        inputs,
        {"answers": ["batch"], "verdicts": ["batch"], "spans": ["batch", "length"]},
        minilm.heads_of(network.encoder),
        target / MODEL_FILE,
    )
    minilm.copy_tokenizer(source, target)
