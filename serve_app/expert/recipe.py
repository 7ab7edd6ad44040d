"""What an adapter was made from and how; the same recipe makes the same adapter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serve_app.errors import SettingsError

FILE = "recipe.json"
_HASHES = {"base", "train", "valid", "start"}


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Everything that a person may turn, and what is fixed beside it.

    Attributes:
        batch: Packs in an optimizer step, over all workers.
        max_tokens: Longest example, and the size of a pack.
        four_bit: Whether the base is held in 4 bits (NF4) while it is trained on.
        alpha: LoRA's scale; twice the rank, so that another rank wants no other learning rate.
    """

    rank: int = 16
    learning_rate: float = 2e-4
    epochs: int = 3
    batch: int = 2
    max_tokens: int = 1024
    seed: int = 0
    four_bit: bool = False
    warmup: float = 0.03  # share of all steps; then the learning rate falls along a cosine

    @property
    def alpha(self) -> int:
        return 2 * self.rank


@dataclass(frozen=True, slots=True)
class Data:
    """A file of examples, counted.

    Attributes:
        learned: Tokens that the loss is taken on.
    """

    file: str
    sha256: str
    rows: int
    tokens: int
    learned: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """What `recipe.json` holds before training; `outcome` is added by it.

    Attributes:
        base: `name` and `weights_sha256` of the model.
        start: Hash of the adapter that it goes on from.
    """

    base: Mapping[str, str]
    train: Data
    valid: Data
    hyperparameters: Hyperparameters
    licence: str | None
    steps: int
    start: str | None = None
    outcome: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        own = asdict(self)
        outcome = own.pop("outcome")
        return {**own, "id": self.id, **outcome}

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self._essence(), sort_keys=True).encode()).hexdigest()

    def refuse_other(self, folder: Path | str, record: bytes, advice: str) -> None:
        """Raises `SettingsError` if a folder was made by another recipe, or by none.

        Args:
            folder: Its path or URL, for the message.
            record: What its `recipe.json` holds; empty where it has none.
        """
        try:
            found = json.loads(record)
            theirs = found["id"]
        except (ValueError, KeyError, TypeError):
            raise SettingsError(f"{folder} exists and holds no {FILE}: {advice}") from None
        if theirs != self.id:
            ours = _flat(self._essence())
            other = _flat({key: found.get(key) for key in self._essence()} | _data_of(found))
            changed = [f"{k} {other.get(k)} → {v}" for k, v in ours.items() if other.get(k) != v]
            raise SettingsError(f"{folder} is of another recipe ({', '.join(changed)}): {advice}")

    def _essence(self) -> dict[str, Any]:
        """What decides the adapter; where files lie does not."""
        return {
            "base": self.base["weights_sha256"],
            "train": self.train.sha256,
            "valid": self.valid.sha256,
            "hyperparameters": self._turned(),
            "licence": self.licence,
            # Only where there is one: recipes from before keep their ids.
            **({"start": self.start} if self.start else {}),
        }

    def _turned(self) -> dict[str, Any]:
        turned = asdict(self.hyperparameters)
        if not turned["four_bit"]:  # recipes from before keep their ids
            del turned["four_bit"]
        return turned


def _data_of(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "base": (record.get("base") or {}).get("weights_sha256"),
        "train": (record.get("train") or {}).get("sha256"),
        "valid": (record.get("valid") or {}).get("sha256"),
    }


def _flat(essence: Mapping[str, Any]) -> dict[str, Any]:
    """One level, hashes cut to what a person compares."""
    flat: dict[str, Any] = {}
    for key, value in essence.items():
        if isinstance(value, Mapping):
            flat.update(value)
        else:
            flat[key] = value[:12] if key in _HASHES and value else value
    return flat
