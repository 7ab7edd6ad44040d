"""The memory that training takes, from the shapes in a base's files: no weight is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from serve_app.errors import SettingsError
from serve_app.expert.recipe import Hyperparameters

_ADAM = 16  # bytes of a trained parameter: itself, gradient, two moments, each in float32
_FOUR_BITS = 0.55  # bytes of a weight in NF4 with its doubly quantized scales
_LAYER = 34  # bytes of a token and unit of width that a layer keeps, at 2 bytes a number
_LOGIT = 10  # bytes of a token and word: the logits, in float32 too, and their gradient


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one worker, in bytes.

    Attributes:
        weights: Of the base.
        adapter: Of the matrices that are trained, with what the optimizer keeps.
        activations: Of a pack of the largest size.
    """

    weights: int
    adapter: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.adapter + self.activations


def of_training(base: Path, chosen: Hyperparameters, *, checkpointing: bool, width: int) -> Memory:
    """What a worker will need, within about a fifth.

    Args:
        base: The model's folder.
        width: Bytes of a number in the base's weights and activations.

    Raises:
        SettingsError: Its config.json does not say what is needed.
    """
    shapes = _shapes(base)
    config = _config(base)
    tokens, hidden = chosen.max_tokens, config["hidden_size"]
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    words = {name for name in matrices if "embed" in name or name.startswith("lm_head")}
    linear = [shape for name, shape in matrices.items() if name not in words]
    numbers = {name: _product(shape) for name, shape in shapes.items()}
    # Only linear layers are quantized; embeddings and norms stay as they are.
    quantized = sum(map(_product, linear)) if chosen.four_bit else 0
    weights = quantized * _FOUR_BITS + (sum(numbers.values()) - quantized) * width
    trained = chosen.rank * sum(map(sum, linear))
    layer = _LAYER * width / 2 * tokens * hidden
    layers = config["num_hidden_layers"]
    kept = layer + layers * width * tokens * hidden if checkpointing else layers * layer
    logits = _LOGIT * tokens * config["vocab_size"]
    return Memory(round(weights), trained * _ADAM, round(kept + logits))


def _shapes(base: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            found |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return found


def _config(base: Path) -> dict[str, int]:
    path = base / "config.json"
    config: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    names = ("hidden_size", "num_hidden_layers", "vocab_size")
    if missing := [name for name in names if not isinstance(config.get(name), int)]:
        raise SettingsError(f"{path} has no {' nor '.join(missing)}: is it a language model?")
    return config


def _product(shape: list[int]) -> int:
    product = 1
    for each in shape:
        product *= each
    return product
