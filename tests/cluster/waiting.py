"""Waiting for what controllers do in their own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_MOST_S = 60.0


def until(look: Callable[[], T], holds: Callable[[T], object]) -> T:
    """Look until it holds; returns what was seen last, also when it never does."""
    deadline = time.monotonic() + _MOST_S
    while not holds(seen := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen
