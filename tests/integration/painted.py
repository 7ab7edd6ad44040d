"""Adapters that say one word over and over: whose answer it is can be read off every token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

_PROMPTS = ("Say something about tents.", "What is a boot?", "red red red blue blue red")
_RANK = 8


def direction(base: Path) -> tuple[Any, torch.Tensor]:
    """The tokenizer, and what the states have in common from which the base reads its next word."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    states = []
    torch.set_num_threads(1)  # a second one would wait, spinning, for a core the engine has
    with torch.inference_mode():
        for text in _PROMPTS:
            read = model.model(**tokenizer(text, return_tensors="pt"))
            states.append(read.last_hidden_state[0, 1:])
    mean = torch.cat(states).mean(dim=0)
    return tokenizer, mean / mean.norm()


def weights(word: str, tokenizer: Any, common: torch.Tensor, vocabulary: int) -> dict[str, Any]:
    """LoRA weights that lift one word above all others, whatever was read.

    Args:
        word: One token, blank before it included.
    """
    (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
    inner, outer = torch.zeros(_RANK, len(common)), torch.zeros(vocabulary, _RANK)
    inner[0], outer[token, 0] = common, 100.0
    name = "base_model.model.lm_head"
    return {
        f"{name}.lora_A.weight": inner.numpy(),
        f"{name}.lora_B.weight": outer.numpy(),
    }


CONFIG = {
    "peft_type": "LORA",
    "r": _RANK,
    "lora_alpha": _RANK,
    "target_modules": ["lm_head"],
    "bias": "none",
}
