"""The model that is trained: a base, whole or in 4 bits, with LoRA on all its linear layers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from serve_app.expert.base import find

if TYPE_CHECKING:
    from serve_app.expert.worker import Job


def model(job: Job) -> Any:
    """The model, on this worker's device; only the adapter of it learns."""
    base = job.base.folder
    if not base.is_dir():  # the driver has it in its own cache of the hub
        base = find(job.base.source, job.base.name).folder
    loaded = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype(job), attn_implementation="sdpa", **_quantized(job)
    )
    loaded.config.use_cache = False
    if job.hyperparameters.four_bit:
        # Norms in float32; whether activations are kept is the Trainer's to say.
        loaded = prepare_model_for_kbit_training(loaded, use_gradient_checkpointing=False)
    if job.start:
        adapted = PeftModel.from_pretrained(loaded, job.start, is_trainable=True)
        # A bare name would be looked up on the hub whenever a checkpoint is saved.
        adapted.peft_config["default"].base_model_name_or_path = str(base)
        return adapted
    chosen = job.hyperparameters
    config = LoraConfig(
        r=chosen.rank,
        lora_alpha=chosen.alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(loaded, config)


def _quantized(job: Job) -> dict[str, Any]:
    """How the base is loaded in 4 bits, each worker's on its own GPU (QLoRA's way)."""
    if not job.hyperparameters.four_bit:
        return {}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    here = int(os.environ.get("LOCAL_RANK", "0"))
    return {"quantization_config": config, "device_map": {"": here}}


def dtype(job: Job) -> torch.dtype:
    """Of the base's weights; the adapter's own are float32.

    On the CPU only tiles (AMX) make bf16 the faster one. avx512_bf16 alone, which helps an engine
    that is bound by memory, halves the speed of training, which is bound by arithmetic: 80 GFLOP/s
    a core against float32's 150, measured on a Xeon of 2023.
    """
    fast = not job.use_cpu or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
