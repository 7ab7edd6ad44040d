"""The router's encoder file, made once at set-up: MiniLM, narrowed, fused and quantised to int8.

It keeps two attention heads of three and one feed-forward neuron of three. `tools/narrow.py` makes
`narrow.safetensors`, its layers: embeddings have a cosine of .98 with the whole model's, and of
.997 with the unquantised ones.
"""

from __future__ import annotations

from pathlib import Path

from serve_app import minilm
from serve_app.router.encoder import LAYERS, MODEL_FILE

NARROW = Path(__file__).with_name("narrow.safetensors")


def export(source: Path, target: Path) -> None:
    """Write the int8 model and its tokenizer into the folder `target`.

    Args:
        source: Folder of all-MiniLM-L6-v2.
    """
    import torch

    class Pooled(torch.nn.Module):
        """Mean-pooled, normalised states of each of `LAYERS`."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = minilm.with_layers(source, NARROW)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
            ).hidden_states
            mask = attention_mask.unsqueeze(-1).to(states[0].dtype)
            count = mask.sum(1).clamp(min=1e-9)
            means = [(states[layer] * mask).sum(1) / count for layer in LAYERS]
            return torch.nn.functional.normalize(torch.stack(means, 1), dim=-1)

    model = Pooled()
    example = torch.tensor([[101, 7592, 2088, 102], [101, 2054, 2003, 102]])
    minilm.to_int8(
        model,
        {"input_ids": example, "attention_mask": torch.ones_like(example)},
        {"layers": ["batch"]},
        minilm.heads_of(model.encoder),
        target / MODEL_FILE,
    )
    minilm.copy_tokenizer(source, target)
