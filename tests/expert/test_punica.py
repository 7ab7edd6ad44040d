"""Adapters on the CPU: each row gets its own adapter's product, and a row of the base none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.expert.punica import GroupedPunica, runs

SLOTS, RANK, WIDTH = 3, 4, 8


def wrapper(slots: list[int]) -> GroupedPunica:
    """As vLLM sets it up for a batch; slot `n` holds adapter `n + 1`, and -1 is no adapter."""
    from vllm.lora.layers import LoRAMapping

    made = GroupedPunica(64, 64, "cpu")
    ids = tuple(slot + 1 for slot in slots)
    mapping = LoRAMapping(index_mapping=ids, prompt_mapping=ids, is_prefill=True)
    made.update_metadata(mapping, [1, 2, 3], SLOTS, 100)
    return made


batches = st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=12)


@given(batches)
@settings(deadline=None, max_examples=30)
def test_each_row_gets_the_product_of_its_own_adapter(slots: list[int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(len(slots), WIDTH)
    a = tuple(torch.randn(SLOTS, 1, RANK, WIDTH) for _ in range(2))
    b = tuple(torch.randn(SLOTS, 1, width, RANK) for width in (5, 3))
    base = torch.randn(len(slots), 8)
    y = base.clone()
    wrapper(slots).add_lora_linear(y, x, a, b, 1.0, (5, 3))
    for row, slot in enumerate(slots):
        expected = base[row].clone()
        if slot >= 0:
            parts = [b[n][slot, 0] @ (a[n][slot, 0] @ x[row]) for n in range(2)]
            expected += torch.cat(parts)
        torch.testing.assert_close(y[row], expected)


def test_vllms_own_would_give_a_row_of_the_base_the_last_adapter() -> None:
    """Why ours is there. When this fails, vLLM has been mended."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    ours = wrapper([-1, 0])
    x = torch.ones(2, WIDTH)
    a, b = (torch.ones(SLOTS, 1, RANK, WIDTH),), (torch.ones(SLOTS, 1, 5, RANK),)
    y = torch.zeros(2, 5)
    PunicaWrapperCPU.add_lora_linear(ours, y, x, a, b, 1.0, (5,))
    assert y[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        ([-1, -1], []),
        ([0, 0, 1], [(0, 2, 0), (2, 3, 1)]),
        ([-1, 2, -1, 2], [(1, 2, 2), (3, 4, 2)]),
    ],
)
def test_rows_in_a_row_are_one_product(slots: list[int], expected: Any) -> None:
    assert runs(torch.tensor(slots)) == expected


Apply = Callable[[GroupedPunica, torch.Tensor, torch.Tensor], None]


@pytest.mark.parametrize("what", ["embedding", "logits"])
def test_vocabulary_gets_its_own_adapter_too(what: str) -> None:
    made = wrapper([1, -1])
    b, y = torch.randn(SLOTS, 1, 5, RANK), torch.zeros(2, 5)
    if what == "embedding":
        inner = torch.randn(2, RANK)
        made.add_lora_embedding(y, inner, b)
        expected = b[1, 0] @ inner[0]
    else:
        x, a = torch.randn(2, WIDTH), torch.randn(SLOTS, 1, RANK, WIDTH)
        made.add_lora_logits(y, x, a, b, 1.0)
        expected = b[1, 0] @ (a[1, 0] @ x[0])
    torch.testing.assert_close(y[0], expected)
    assert y[1].abs().sum() == 0
