"""What the router's encoder can do without, and what the rest has to do instead.

    python -m tools.narrow --data ../shared/data

Writes `serve_app/router/narrow.safetensors`, in some twenty-five minutes on two cores.

1. Layer by layer, from the first: the attention head, and then the feed-forward neuron, whose loss,
   made good by the others, costs the least goes, again and again, by the inverse Hessian of least
   squares (Optimal Brain Surgeon: Hassibi & Stork, 1993; by whole heads and neurons as in ZipLM:
   Kurtic et al., 2023). Inputs are those of the layers narrowed so far, outputs to be met are the
   original's, so that later layers mend what earlier ones lost.
2. What is left of the layers is trained to give the original's embeddings (distillation: Hinton et
   al., 2015).

The texts are our own (`OWN`), written for this project, and of public sets that allow it:
EverGreenQA's training questions (MIT) and parts of Banking77's (CC BY 4.0) and CLINC150's (CC BY
3.0); no label is read.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from serve_app import models
from serve_app.router.encoder import LAYERS
from serve_app.router.export import HEAD, NARROW
from serve_app.settings import BUNDLED

KEPT = {"heads": 8, "neurons": 512}  # of 12, of 1536
UNIT = {"heads": HEAD, "neurons": 1}  # numbers of each
OWN = ("demo/routes", "router/complexity", "router/volatility")
FITTED = 2500  # of our own texts: what the surgery looks at
PUBLIC = {
    "volatility/evergreenqa_train": 2008,
    "volatility/evergreenqa_train_synth": 1479,
    "intents/banking77_train": 4500,
    "intents/clinc150_train": 6000,
}
MAX_TOKENS = 48
EPOCHS = 10
LEARNING_RATE = 5e-4
_DAMPING = 1e-4  # of the mean square of an activation


def own() -> list[str]:
    """Last turns, and whole conversations."""
    found = set()
    for name in OWN:
        for line in Path(f"configs/{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            turns = [row["query"]] if "query" in row else [m["content"] for m in row["messages"]]
            found |= {turns[-1], " ".join(turns)}
    return sorted(found)


def public(data: Path) -> list[str]:
    found = []
    for name, count in PUBLIC.items():
        lines = (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        found += [json.loads(line)["query"] for line in random.Random(1).sample(lines, count)]
    return found


def batches(tokenizer: Any, found: list[str]) -> list[Any]:
    ordered = sorted(set(found), key=lambda text: (len(text), text))
    return [
        tokenizer(
            ordered[i : i + 64],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        for i in range(0, len(ordered), 64)
    ]


def reader(layer: Any, kind: str) -> Any:
    """The matrix that reads a layer's heads or neurons."""
    return (layer.attention.output if kind == "heads" else layer.output).dense


def seen(model: Any, number: int, kind: str, read: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """What heads or neurons of a layer give, what is made of it, and what that is added to.

    Each of shape (tokens, …).
    """
    layer = model.encoder.layer[number]
    block = layer.attention.output if kind == "heads" else layer.output
    calls: list[tuple[Tensor, Tensor]] = []
    hook = block.register_forward_pre_hook(lambda _, given: calls.append((given[0], given[1])))
    for batch in read:
        model(**batch)
    hook.remove()
    kept = [batch["attention_mask"].bool() for batch in read]
    given, added = (
        torch.cat([call[i][mask] for call, mask in zip(calls, kept, strict=True)]) for i in (0, 1)
    )
    return given, block.dense(given), added


def eliminate(given: Tensor, wanted: Tensor, unit: int, kept: int) -> dict[str, Tensor]:
    """What `narrow` takes: the heads or neurons to keep, and what makes the best of them.

    Args:
        given: What all of them give, shape (tokens, unit times their count).
        wanted: What the layer should make of it, shape (tokens, width).
        unit: Numbers of each.
    """
    ones = torch.ones(len(given), 1, dtype=given.dtype)
    features = torch.cat([given, ones], 1)  # the last is the bias, and stays
    gram = features.T @ features
    gram += torch.eye(len(gram), dtype=gram.dtype) * _DAMPING * gram.diagonal()[:-1].mean()
    cross = features.T @ wanted
    inverse = torch.linalg.inv(gram)
    weight = inverse @ cross
    rows = torch.arange(given.shape[1]).view(-1, unit)
    alive = list(range(len(rows)))
    while len(alive) > kept:
        left = rows[alive]
        of_each = weight[left]
        blocks = inverse[left[:, :, None], left[:, None, :]]
        losses = (of_each * torch.linalg.solve(blocks, of_each)).sum((1, 2))
        out = int(losses.argmin())
        columns, block, gone = inverse[:, left[out]].clone(), blocks[out], of_each[out]
        weight -= columns @ torch.linalg.solve(block, gone)
        inverse -= columns @ torch.linalg.solve(block, columns.T)
        alive.pop(out)
    left = torch.cat([rows[alive].flatten(), torch.tensor([len(gram) - 1])])
    weight = torch.linalg.solve(gram[left][:, left], cross[left])  # rounding has added up
    return {"kept": torch.tensor(alive), "weight": weight[:-1].T, "bias": weight[-1]}


def narrow(layer: Any, kind: str, parts: Mapping[str, Tensor]) -> None:
    """Leave a layer what `eliminate` found."""
    rows = parts["kept"]
    own = layer.attention.self
    if kind == "heads":
        rows = (rows[:, None] * HEAD + torch.arange(HEAD)).flatten()
        writers = [own.query, own.key, own.value]
    else:
        writers = [layer.intermediate.dense]
    for writer in writers:
        writer.weight = torch.nn.Parameter(writer.weight[rows])
        writer.bias = torch.nn.Parameter(writer.bias[rows])
    read = reader(layer, kind)
    read.weight = torch.nn.Parameter(parts["weight"].float())
    read.bias = torch.nn.Parameter(parts["bias"].float())


def embedded(model: Any, batch: Any) -> Tensor:
    """As the router reads them: shape (texts, len(LAYERS), width), of length 1."""
    states = model(**batch, output_hidden_states=True).hidden_states
    mask = batch["attention_mask"].unsqueeze(-1).float()
    means = [(states[layer] * mask).sum(1) / mask.sum(1) for layer in LAYERS]
    return torch.nn.functional.normalize(torch.stack(means, 1), dim=-1)


@torch.no_grad()
def surgery(original: Any, narrowed: Any, read: list[Any]) -> None:
    """Narrows a copy of the original."""
    for number in track(range(max(LAYERS)), "layers"):
        for kind in UNIT:
            _, made, before = seen(original, number, kind, read)
            given, _, now = seen(narrowed, number, kind, read)
            # What the block adds to is wrong by now: that is made good here too.
            wanted = (made + before - now).double()
            parts = eliminate(given.double(), wanted, UNIT[kind], KEPT[kind])
            narrow(narrowed.encoder.layer[number], kind, parts)


def distil(original: Any, narrowed: Any, read: list[Any]) -> None:
    """Train the layers, all of their weights."""
    with torch.no_grad():
        wanted = [embedded(original, batch) for batch in read]
    narrowed.requires_grad_(False)
    trained = list(narrowed.encoder.layer[: max(LAYERS)].requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    steps = EPOCHS * len(read)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 30) * (1 + math.cos(math.pi * step / steps)) / 2,
    )
    shuffled = random.Random(0)
    order = [i for _ in range(EPOCHS) for i in shuffled.sample(range(len(read)), len(read))]
    for i in track(order, "distillation"):
        loss = (1 - (embedded(narrowed, read[i]) * wanted[i]).sum(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    texts = own()
    fitted = random.Random(0).sample(texts, FITTED)
    texts += public(parser.parse_args().data)
    path = models.embedding_models()[BUNDLED]
    tokenizer = AutoTokenizer.from_pretrained(path)
    original, narrowed = (
        AutoModel.from_pretrained(path, attn_implementation="eager").eval() for _ in range(2)
    )
    surgery(original, narrowed, batches(tokenizer, fitted))
    distil(original, narrowed, batches(tokenizer, texts))
    layers = narrowed.encoder.layer[: max(LAYERS)].state_dict()
    save_file({name: weights.half().contiguous() for name, weights in layers.items()}, NARROW)


if __name__ == "__main__":
    main()
