"""A training's losses as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw(losses: Sequence[Mapping[str, float]], path: Path) -> None:
    """Training and validation loss over the steps.

    Args:
        losses: Lines of `losses.jsonl`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, label, marker in (("loss", "training", ""), ("valid_loss", "validation", "o")):
        points = [(entry["step"], entry[name]) for entry in losses if name in entry]
        axis.plot(*zip(*points, strict=True), label=label, marker=marker)
    axis.set(xlabel="step", ylabel="loss of the answers' tokens (nats)")
    axis.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
