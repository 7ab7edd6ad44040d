"""vLLM's arithmetic of adapters on the CPU, batch row by batch row. Importing this loads vLLM.

vLLM 0.29's own indexes the adapters' weights by each token's slot. Slot -1, "no adapter", is then
the last one: a row of the base alone gets another request's adapter. It also copies the weights
once for each token, in float32. Here rows that share an adapter are one matrix product, and rows
without one are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform
from vllm.v1.executor.uniproc_executor import UniProcExecutor

Run = tuple[int, int, int]
"""First row, row after the last, slot."""


class GroupedPunica(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is untyped
    """Products for whole runs of rows."""

    _tokens: Sequence[Run] = ()
    _samples: Sequence[Run] = ()

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        self._tokens = runs(self.token_lora_indices)
        self._samples = runs(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        for first, end, slot in self._tokens:
            left = 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                target = y[first:end, left : left + width]
                target.addmm_(x[first:end] @ a[slot, 0].T, b[slot, 0].T, alpha=scale)
                left += width

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, **_: Any
    ) -> None:
        for first, end, slot in self._tokens:
            y[first:end] += (x[first:end].to(y.dtype)) @ lora_b_stacked[slot, 0].T

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        for first, end, slot in self._samples:
            inner = x[first:end] @ lora_a_stacked[slot, 0].T
            y[first:end].addmm_(inner, lora_b_stacked[slot, 0].T, alpha=scale)


def runs(slots: torch.Tensor) -> list[Run]:
    """Rows in a row with the same slot; those with none, -1, are left out."""
    values, counts = torch.unique_consecutive(slots, return_counts=True)
    found, first = [], 0
    for slot, count in zip(values.tolist(), counts.tolist(), strict=True):
        if slot >= 0:
            found.append((first, first + count, slot))
        first += count
    return found


class InlineExecutor(UniProcExecutor):  # type: ignore[misc]  # vLLM is untyped
    """vLLM's worker inside the engine's own process, computing adapters so.

    That process is not ours: vLLM starts it anew, and knows the executor by its import path only.
    """

    def _init_executor(self) -> None:
        if current_platform.is_cpu():
            path = f"{__name__}.{GroupedPunica.__name__}"
            type(current_platform).get_punica_wrapper = classmethod(lambda cls: path)
        super()._init_executor()
