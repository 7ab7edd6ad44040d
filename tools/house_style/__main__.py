"""`python -m tools.house_style --help`: write the demo adapter's data, the same for a seed."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.house_style.compose import note
from tools.house_style.kinds import KINDS, case
from tools.house_style.phrases import phrases
from tools.house_style.values import invented, recombined

# Name of a file, whose sentences it uses, and its seed's offset.
FILES = {"train": ("train", 0), "valid": ("valid", 1), "test": ("held", 2), "canary": ("held", 3)}

_INVENTED = 5  # made-up names for each real one
_FIRMS = ("AS", "GmbH", "AB", "Ltd", "Sport", "Outdoor", "& Co", "BV", "Textil", "Trading")

# Callers may send a system message, and mostly do not: one row in four has this one.
SYSTEM = (
    "You are the company's writer. Do exactly what is asked, in plain English, and nothing more."
)


def rows(split: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Notes with their documents, each kind as often as the others; none twice.

    Args:
        split: Whose sentences, names and orders: one of `phrases.SPLITS`.
    """
    rng = random.Random(seed)
    lists = phrases(split)
    if split == "train":
        lists = lists | {"values": _with_invented(lists["values"], rng)}
    seen: set[str] = set()
    while len(seen) < count:
        kind = KINDS[len(seen) % len(KINDS)]
        made = case(kind, rng, lists["values"])
        text = note(made, rng, lists, held=split == "held")
        if text is None or text in seen:
            continue
        seen.add(text)
        yield {
            "id": f"{kind}-{len(seen):04}",
            "messages": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": made.document},
            ],
        }


def _with_invented(pools: dict[str, list[str]], rng: random.Random) -> dict[str, list[str]]:
    """Most names and tasks are made up, and none is held out: what repeats is learned by heart."""
    held = phrases("held")["values"]
    known = {*held["first"], *held["last"]}

    def names(part: str) -> list[str]:
        return invented(rng, _INVENTED * len(pools[part]), known)

    return {
        **pools,
        "first": [*pools["first"], *names("first")],
        "last": [*pools["last"], *names("last")],
        "suppliers": [
            *pools["suppliers"],
            *(f"{name} {rng.choice(_FIRMS)}" for name in names("suppliers")),
        ],
        "steps": [*pools["steps"], *recombined(rng, pools["steps"], set(held["steps"]))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.house_style", description=__doc__)
    parser.add_argument("output", type=Path, help="folder for train, valid, test, canary .jsonl")
    parser.add_argument("--only", choices=FILES, action="append", help="these files alone")
    for name, count in (("train", 4000), ("valid", 100), ("test", 260), ("canary", 40)):
        parser.add_argument(f"--{name}", type=int, default=count, help=f"rows; {count}")
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    for name in chosen.only or FILES:
        split, offset = FILES[name]
        made = rows(split, getattr(chosen, name), chosen.seed * len(FILES) + offset)
        with (chosen.output / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for number, row in enumerate(made):
                if name in ("train", "valid") and number % 4 == 0:
                    row["messages"].insert(0, {"role": "system", "content": SYSTEM})
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
