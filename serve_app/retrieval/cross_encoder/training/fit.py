"""Fitting the network: AdamW on layers and heads, a cosine of learning rates, batches by length."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from serve_app.retrieval.cross_encoder.network import Network
from serve_app.retrieval.cross_encoder.training.rows import UNFAITHFUL, Pair

_WARM_UP = 100  # steps
_JITTER = 8  # tokens by which pairs of one batch may differ for nothing
_SPANS = 0.5  # weight of the spans beside the other two
_QUESTION, _PASSAGE = 400, 6_000  # characters that are read
_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is fitted.

    Attributes:
        learning_rate: Its peak, for the layers; the heads' is three times as high.
        tokens: Of the longest pair times the pairs of a batch.
        longest: Tokens of a pair; passages are cut behind them.
    """

    epochs: int = 2
    learning_rate: float = 3e-4
    tokens: int = 4096
    longest: int = 192
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Item:
    ids: list[int]
    kinds: list[int]
    answers: int
    start: int
    end: int
    verdict: int


@dataclass(frozen=True, slots=True)
class _Batch:
    ids: Tensor
    kinds: Tensor
    mask: Tensor
    answers: Tensor
    start: Tensor
    end: Tensor
    verdict: Tensor


def fit(
    network: Network,
    tokenizer: Any,
    pairs: Sequence[Pair],
    recipe: Recipe,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> None:
    """Fit a network to pairs, in place; its embeddings stay as they are.

    Args:
        tokenizer: A fast one of transformers.
        on_step: Told after each: its number, how many there will be, and the loss.
    """
    torch.manual_seed(recipe.seed)
    noise = random.Random(recipe.seed)  # noqa: S311  # the same every time
    items = [_item(tokenizer, pair, recipe.longest) for pair in pairs]
    plan = [each for _ in range(recipe.epochs) for each in _batches(items, recipe.tokens, noise)]
    network.requires_grad_(True).train()
    network.encoder.embeddings.requires_grad_(False)
    layers = list(network.encoder.encoder.parameters())
    heads = [each for name in ("answers", "verdicts", "spans") for each in _of(network, name)]
    optimizer = torch.optim.AdamW(
        [
            {"params": layers, "lr": recipe.learning_rate},
            {"params": heads, "lr": 3 * recipe.learning_rate},
        ],
        weight_decay=0.01,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * min(1.0, step / len(plan)))) / 2
        ),
    )
    for number, together in enumerate(plan, start=1):
        loss = _loss(network, _batch(together))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(layers, 1.0)
        optimizer.step()
        schedule.step()
        on_step(number, len(plan), float(loss.detach()))
    network.eval()


def _of(network: Network, name: str) -> list[nn.Parameter]:
    return list(getattr(network, name).parameters())


def _loss(network: Network, batch: _Batch) -> Tensor:
    """The mean over a batch's pairs of what each is known to be."""
    answers, verdicts, spans = network(batch.ids, batch.kinds, batch.mask)
    loss = torch.zeros(())
    known = batch.answers >= 0
    if known.any():
        loss = loss + functional.binary_cross_entropy_with_logits(
            answers[known], batch.answers[known].float(), reduction="sum"
        )
    # Where a passage does not answer, the answer stands nowhere: at the first token.
    placed = (batch.start >= 0) | (batch.answers == 0)
    if placed.any():
        for column, place in enumerate((batch.start, batch.end)):
            loss = loss + _SPANS / 2 * functional.cross_entropy(
                spans[placed][..., column], place[placed].clamp(min=0), reduction="sum"
            )
    judged = batch.verdict >= 0
    if judged.any():
        shares, verdict = verdicts[judged].log_softmax(-1), batch.verdict[judged]
        unfaithful = torch.logsumexp(shares[:, 1:], -1)
        exact = shares.gather(1, verdict.clamp(max=UNFAITHFUL - 1).unsqueeze(1)).squeeze(1)
        loss = loss - torch.where(verdict == UNFAITHFUL, unfaithful, exact).sum()
    return loss / len(batch.ids)


def _item(tokenizer: Any, pair: Pair, longest: int) -> _Item:
    read = tokenizer(
        pair.first[:_QUESTION],
        pair.second[:_PASSAGE],
        truncation="only_second",
        max_length=longest,
        return_offsets_mapping=True,
    )
    kinds = read["token_type_ids"]
    start = end = _UNKNOWN
    if pair.span:
        within = [
            (at, span)
            for at, (kind, span) in enumerate(zip(kinds, read["offset_mapping"], strict=True))
            if kind and span[1] > span[0]
        ]
        starts = [at for at, (one, two) in within if one <= pair.span[0] < two]
        ends = [at for at, (one, two) in within if one < pair.span[1] <= two]
        if starts and ends and starts[0] <= ends[0]:
            start, end = starts[0], ends[0]
    return _Item(
        read["input_ids"],
        kinds,
        _UNKNOWN if pair.answers is None else int(pair.answers),
        start,
        end,
        _UNKNOWN if pair.verdict is None else pair.verdict,
    )


def _batches(items: Sequence[_Item], tokens: int, noise: random.Random) -> list[list[_Item]]:
    """Pairs of like length share a batch, so that little of it is padding."""
    ordered = sorted(items, key=lambda each: len(each.ids) + noise.random() * _JITTER)
    found: list[list[_Item]] = [[]]
    for item in ordered:
        if found[-1] and (len(found[-1]) + 1) * len(item.ids) > tokens:
            found.append([])
        found[-1].append(item)
    noise.shuffle(found)
    return found


def _batch(items: Sequence[_Item]) -> _Batch:
    longest = max(len(each.ids) for each in items)

    def padded(rows: Sequence[list[int]]) -> Tensor:
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    return _Batch(
        padded([each.ids for each in items]),
        padded([each.kinds for each in items]),
        padded([[1] * len(each.ids) for each in items]),
        torch.tensor([each.answers for each in items]),
        torch.tensor([each.start for each in items]),
        torch.tensor([each.end for each in items]),
        torch.tensor([each.verdict for each in items]),
    )
