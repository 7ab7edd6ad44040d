"""`python -m tools.house_style.ship TRAINED OUTPUT`: what the demo adapter's release is made of.

The weights at half their bytes (float16: LoRA's are small), the canary questions and how notes
spell things. `trivium adapters add` takes the result.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from serve_app.expert.admission import WEIGHTS

HOME = Path("configs/demo/house_style")
BESIDE = ("canary.jsonl", "support.yaml")


def ship(trained: Path, output: Path) -> None:
    """Write the folder of a release.

    Args:
        trained: What `trivium train expert` wrote.
    """
    shutil.copytree(trained, output)
    halved = {name: each.astype(np.float16) for name, each in load_file(trained / WEIGHTS).items()}
    save_file(halved, output / WEIGHTS, metadata={"format": "pt"})
    for name in BESIDE:
        shutil.copy(HOME / name, output / name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.house_style.ship", description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("output", type=Path)
    chosen = parser.parse_args()
    ship(chosen.trained, chosen.output)


if __name__ == "__main__":
    main()
