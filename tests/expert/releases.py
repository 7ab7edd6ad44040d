"""Small releases, written as `Registry.add` writes them but without training one first."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

BASE = {"name": "smollm2-135m-instruct", "weights_sha256": "0" * 64}


def release(
    root: Path,
    name: str,
    version: int,
    *,
    weights: dict[str, Any] | None = None,
    base: dict[str, str] | None = None,
    contract: str | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """A complete version in a registry; returns its folder."""
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    tensors = weights or {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((8, 4)) + version
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(config or {"peft_type": "LORA", "r": 8, "lora_alpha": 16})
    )
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    if contract is not None:
        (folder / "contract.yaml").write_text(contract)
    manifest = {
        "name": name,
        "version": version,
        "base": base or BASE,
        "scores": {
            "before": {"validation": 0.1, "canary": 0.1},
            "after": {"validation": 0.9, "canary": 0.9},
        },
        "rank": int((config or {"r": 8})["r"]),
        "files": files,
        "contract": "contract.yaml" if contract is not None else None,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
