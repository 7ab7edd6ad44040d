"""What grew and shrank while the load did, second by second: a plot of three rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

_WINDOW_S = 10.0  # over which requests are averaged


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the release.

    Attributes:
        at: Seconds since the first.
        answered: Requests so far.
        callers: That ask one question after the other.
        replicas: That run, of the router and of the expert.
        pods: Of workers that are ready.
    """

    at: float
    answered: int
    callers: int
    replicas: tuple[int, int]
    pods: int


def draw(samples: Sequence[Sample], target: Path) -> None:
    """An SVG: requests, replicas and pods over time."""
    times = [each.at for each in samples]
    figure, rows = plt.subplots(3, sharex=True, figsize=(8, 6), layout="constrained")
    _steps(rows[0], times, [each.callers for each in samples], "callers at once")
    rows[0].plot(times, _rates(samples), label="requests a second")
    _steps(rows[1], times, [each.replicas[0] for each in samples], "router replicas")
    _steps(rows[1], times, [each.replicas[1] for each in samples], "expert replicas")
    _steps(rows[2], times, [each.pods for each in samples], "worker pods")
    for row in rows:
        row.set_ylim(bottom=0)
        row.grid(alpha=0.3)
        row.legend(loc="upper left", frameon=False)
    rows[-1].set_xlabel("seconds")
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def _steps(row: Any, times: Sequence[float], values: Sequence[int], label: str) -> None:
    row.step(times, values, where="post", label=label)


def _rates(samples: Sequence[Sample]) -> list[float]:
    """Requests a second, of the last seconds before each look."""
    rates, first = [], 0
    for each in samples:
        while each.at - samples[first].at > _WINDOW_S:
            first += 1
        passed = each.at - samples[first].at
        rates.append((each.answered - samples[first].answered) / passed if passed else 0.0)
    return rates
