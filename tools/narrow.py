"""Which neurons the router's encoder can do without, and what the others have to do instead.

    python -m tools.narrow

Writes `serve_app/router/narrow.safetensors`. Layer by layer, from the first: of each feed-forward
layer the neuron whose loss, made good by the others, costs the least goes, again and again, by the
inverse Hessian of least squares (Optimal Brain Surgeon: Hassibi & Stork, 1993; by whole neurons as
in ZipLM: Kurtic et al., 2023). Inputs are those of the layers narrowed so far, outputs to be met
are the original's, so that later layers mend what earlier ones lost. Nothing is trained further.

The texts are those of `configs/`, written for this project.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from serve_app import models
from serve_app.router.encoder import LAYERS
from serve_app.router.export import NARROW, narrow
from serve_app.settings import BUNDLED

KEPT = 768  # of 1536
TEXTS = 2500
MAX_TOKENS = 48
FILES = ("demo/routes", "router/complexity", "router/volatility")
_DAMPING = 1e-4  # of the mean square of an activation


def texts() -> list[str]:
    """Last turns, and whole conversations."""
    found = set()
    for name in FILES:
        for line in Path(f"configs/{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            turns = [row["query"]] if "query" in row else [m["content"] for m in row["messages"]]
            found |= {turns[-1], " ".join(turns)}
    return random.Random(0).sample(sorted(found), TEXTS)


def batches(tokenizer: Any, found: list[str]) -> Iterator[Any]:
    ordered = sorted(found, key=len)
    for i in range(0, len(ordered), 64):
        yield tokenizer(
            ordered[i : i + 64],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )


def inputs(model: Any, number: int, read: list[Any]) -> Tensor:
    """What goes into a layer's feed-forward part: shape (tokens, width)."""
    seen: list[Tensor] = []
    attention = model.encoder.layer[number].attention
    hook = attention.register_forward_hook(lambda _, __, out: seen.append(out[0]))
    for batch in read:
        model(**batch)
    hook.remove()
    return torch.cat([x[b["attention_mask"].bool()] for x, b in zip(seen, read, strict=True)])


def eliminate(hidden: Tensor, wanted: Tensor, kept: int) -> dict[str, Tensor]:
    """What `narrow` takes: the neurons to keep, and what makes the best of them.

    Args:
        hidden: Activations, shape (tokens, neurons).
        wanted: What the layer should give, shape (tokens, width).
    """
    ones = torch.ones(len(hidden), 1, dtype=hidden.dtype)
    features = torch.cat([hidden, ones], 1)
    gram = features.T @ features
    gram += torch.eye(len(gram), dtype=gram.dtype) * _DAMPING * gram.diagonal()[:-1].mean()
    cross = features.T @ wanted
    inverse = torch.linalg.inv(gram)
    weight = inverse @ cross
    alive = torch.ones(len(gram), dtype=torch.bool)
    for _ in range(hidden.shape[1] - kept):
        loss = (weight**2).sum(1) / inverse.diagonal()
        loss[-1] = torch.inf  # the bias stays
        loss[~alive] = torch.inf
        out = int(loss.argmin())
        column = inverse[:, out].clone()
        weight -= torch.outer(column, weight[out] / column[out])
        inverse -= torch.outer(column, column) / column[out]
        alive[out] = False
        weight[out], inverse[out], inverse[:, out], inverse[out, out] = 0, 0, 0, 1
    left = alive.nonzero()[:, 0]
    weight = torch.linalg.solve(gram[left][:, left], cross[left])  # rounding has added up
    return {
        "neurons": left[:-1].to(torch.int16),
        "weight": weight[:-1].T.contiguous().half(),
        "bias": weight[-1].half(),
    }


@torch.no_grad()
def main() -> None:
    path = models.embedding_models()[BUNDLED]
    read = list(batches(AutoTokenizer.from_pretrained(path), texts()))
    original, narrowed = (AutoModel.from_pretrained(path).eval() for _ in range(2))
    found: dict[str, Tensor] = {}
    for number in track(range(max(LAYERS)), "layers"):
        before, now = (inputs(model, number, read) for model in (original, narrowed))
        whole = original.encoder.layer[number]
        # The layer's input is added to its output: what is wrong in it is made good here too.
        wanted = whole.output.dense(whole.intermediate(before)) + before - now
        kept = eliminate(whole.intermediate(now).double(), wanted.double(), KEPT)
        narrow(narrowed.encoder.layer[number], kept)
        found |= {f"{number}.{part}": tensor for part, tensor in kept.items()}
    save_file(found, NARROW)


if __name__ == "__main__":
    main()
