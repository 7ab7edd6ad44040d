"""The sentences, by split, and the check that splits share none."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

SPLITS = ("train", "valid", "held")
_FIFTH = 5  # of every list of train.yaml, one entry in so many is validation's


@functools.cache
def phrases(split: str) -> dict[str, Any]:
    """The lists of a split; `train` and `valid` are shared out of one file."""
    file = "held.yaml" if split == "held" else "train.yaml"
    found: dict[str, Any] = yaml.safe_load((Path(__file__).parent / file).read_text("utf-8"))
    if split == "held":
        return found

    def share(entries: list[str]) -> list[str]:
        every = min(_FIFTH, len(entries))
        return [e for i, e in enumerate(entries) if (i % every == every - 1) == (split == "valid")]

    return {part: _mapped(lists, share) for part, lists in found.items()}


def entries(lists: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every entry with the path of its list."""
    if isinstance(lists, dict):
        for key, value in lists.items():
            yield from entries(value, f"{place}/{key}")
    else:
        yield from ((place, entry) for entry in lists)


def _mapped(lists: Any, keep: Callable[[list[str]], list[str]]) -> Any:
    if isinstance(lists, dict):
        return {key: _mapped(value, keep) for key, value in lists.items()}
    return keep(lists)
