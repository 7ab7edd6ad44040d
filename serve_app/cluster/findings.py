"""What a check before a deployment found: one sentence, and the remedy."""

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
        level: `failed` stops a deployment.
        remedy: What to do about it; empty where all is well.
    """

    check: str
    level: Level
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be deployed, and where."""

    kube: Kube
    release: str
    objects: Sequence[Object]


Check = Callable[[Plan], Iterator[Finding]]
