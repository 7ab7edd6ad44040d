"""Typing errors, as people make them: for training that withstands them and tests that check it."""

from __future__ import annotations

import random
import re

_MARKS = re.compile(r"[^\w\s]+")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def mistyped(text: str, noise: random.Random, every: int = 25) -> str:
    """The text with a typing error in about `every` characters, and sometimes its case lost."""
    characters = list(text)
    for _ in range(max(1, len(text) // every)):
        at = noise.randrange(len(characters))
        if not characters[at].isalpha():
            continue
        match noise.randrange(4):
            case 0 if at + 1 < len(characters):
                characters[at : at + 2] = characters[at + 1], characters[at]
            case 1:
                characters[at] = ""
            case 2:
                characters[at] *= 2
            case _:
                characters[at] = noise.choice(_LETTERS)
    noisy = "".join(characters)
    return noise.choice([noisy, noisy, noisy.lower(), noisy.upper()])


def unpunctuated(text: str) -> str:
    """The text as people type it who leave the marks out."""
    return _MARKS.sub(" ", text).strip() or text
