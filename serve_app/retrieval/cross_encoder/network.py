"""The network: MiniLM's layers, and three linear heads. For training and export alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serve_app.minilm import WIDTH, replace_layers

VERDICTS = ("supported", "contradicted", "not stated")
LAYERS = 5
_NOWHERE = -1e4


class Network(nn.Module):
    """Question or claim before the separator, passage behind it.

    Args:
        encoder: A MiniLM of transformers; its layers above `LAYERS` are left out.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        encoder.encoder.layer = encoder.encoder.layer[:LAYERS]
        self.encoder = encoder
        self.answers = nn.Linear(2 * WIDTH, 1)
        self.verdicts = nn.Linear(2 * WIDTH, len(VERDICTS))
        self.spans = nn.Linear(WIDTH, 2)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, each of shape (pairs, …): that the passage answers, of the verdicts (3), and of
        each token that the answer starts and ends there (tokens, 2; the first token: nowhere)."""
        states = self.encoder(
            input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask
        ).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1)
        pooled = torch.cat([states[:, 0], mean], -1)
        first = torch.arange(input_ids.shape[1]) == 0
        within = ((token_type_ids * attention_mask) == 1) | first
        spans = self.spans(states).masked_fill(~within.unsqueeze(-1), _NOWHERE)
        return self.answers(pooled).squeeze(-1), self.verdicts(pooled), spans

    def load(self, weights: Path) -> None:
        """Take layers and heads of a file that `save` wrote."""
        from safetensors.torch import load_file

        found = load_file(weights)
        heads = {name: each.float() for name, each in found.items() if not _of_layers(name)}
        replace_layers(self.encoder, {n: each for n, each in found.items() if _of_layers(n)})
        self.load_state_dict(heads, strict=False)

    def save(self, weights: Path, card: dict[str, str]) -> None:
        """Write layers and heads; the embeddings are MiniLM's own."""
        from safetensors.torch import save_file

        layers = self.encoder.encoder.layer.state_dict()
        heads = {
            f"{name}.{kind}": each
            for name in ("answers", "verdicts", "spans")
            for kind, each in getattr(self, name).state_dict().items()
        }
        found = {name: each.half().contiguous() for name, each in {**layers, **heads}.items()}
        save_file(found, weights, metadata=card)


def _of_layers(name: str) -> bool:
    return name[0].isdigit()
