"""Whether an adapter's folder may become a release: what it must hold, and must not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import SettingsError
from serve_app.expert.base import Base
from serve_app.expert.recipe import FILE

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Attributes:
    rank: Highest rank that the engine is made for.
    size: Bytes of the whole folder.
    """

    rank: int = 64
    size: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Candidate:
    """A folder that was admitted.

    Attributes:
        files: Name and SHA-256 of each.
    """

    folder: Path
    base: Base
    recipe: dict[str, Any]
    rank: int
    size: int
    files: dict[str, str]


def admit(folder: Path, base: Base, limits: Limits) -> Candidate:
    """Check a folder in the order of what is cheapest to see.

    Raises:
        SettingsError: It may not be a release; says why and what to do.
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder}: there is no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        if path.suffix in _PICKLED:
            raise SettingsError(
                f"{path}: pickled weights can run code when they are loaded; save the adapter as "
                f"{WEIGHTS} and remove this file"
            )
    size = sum(path.stat().st_size for path in paths)
    if size > limits.size:
        raise SettingsError(
            f"{folder} has {size:,} bytes, more than the {limits.size:,} allowed: remove what is "
            "not the adapter's, or raise --max-bytes"
        )
    config, recipe = _json(folder / CONFIG), _json(folder / FILE)
    rank = _rank(folder / CONFIG, config)
    if rank > limits.rank:
        raise SettingsError(
            f"{folder / CONFIG}: its rank is {rank}, above {limits.rank}: train it with a lower "
            "--rank, or raise --max-rank and the engine's max_lora_rank with it"
        )
    _readable(folder / WEIGHTS)
    trained_on = (recipe.get("base") or {}).get("weights_sha256")
    here = base.weights_sha256()
    if trained_on != here:
        raise SettingsError(
            f"{folder / FILE}: it was trained on weights {str(trained_on)[:12]} and {base.name}'s "
            f"are {here[:12]}: name the base that it was trained on with --base"
        )
    files = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    return Candidate(folder, base, recipe, rank, size, files)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"{path} is missing: give a folder that `trivium train expert` wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise SettingsError(f"{path}: must hold an object")
    return value


def _rank(path: Path, config: dict[str, Any]) -> int:
    """The highest of any layer's."""
    try:
        rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SettingsError(f"{path}: it has no rank `r`, a number") from None
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
        raise SettingsError(
            f"{path}: the engine serves LoRA alone: no other kind of adapter, no DoRA and no "
            "whole modules beside it (modules_to_save)"
        )
    return rank


def _readable(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as weights:
            names = list(weights.keys())
            broken = [each for each in names if not weights.get_tensor(each).isfinite().all()]
    except FileNotFoundError:
        raise SettingsError(f"{path} is missing: the adapter has no weights") from None
    except (OSError, SafetensorError) as error:
        raise SettingsError(
            f"{path} is corrupt ({error}): copy it again, or train it anew"
        ) from None
    if not any("lora_" in name for name in names):
        raise SettingsError(f"{path} holds no LoRA weights")
    if broken:
        raise SettingsError(f"{path}: {broken[0]} holds numbers that are not finite; train it anew")
