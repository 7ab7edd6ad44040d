"""What a check before an installation found: one sentence, and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from serve_app.cluster.kube import Kube, Object

Level = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One sentence on one thing.

    Attributes:
        check: Which check it is of.
        level: `failed` stops an installation.
        remedy: What to do about it; empty where all is well.
    """

    check: str
    level: Level
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be installed, and where.

    Attributes:
        force: Fields of other managers are to be taken.
    """

    kube: Kube
    release: str
    objects: Sequence[Object]
    force: bool = False


Check = Callable[[Plan], Iterator[Finding]]
