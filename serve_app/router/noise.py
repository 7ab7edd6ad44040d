"""Typing errors, as people make them: for training that withstands them and tests that check it."""

from __future__ import annotations

import random

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_CHARACTERS_PER_ERROR = 25


def mistyped(text: str, noise: random.Random) -> str:
    """The text with about one typing error in 25 characters, and sometimes with its case lost."""
    characters = list(text)
    for _ in range(max(1, len(text) // _CHARACTERS_PER_ERROR)):
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
