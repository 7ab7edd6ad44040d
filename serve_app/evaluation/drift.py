"""Canary replays over time: what is asked of a release again and again, and when it got worse.

A record says what was replayed on (`identity`: hashes and versions of adapter, base, engine and
questions), so that a score that falls can be told from a thing that changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.errors import SettingsError
from serve_app.telemetry.drift import FILE, History

__all__ = ["FILE", "History", "alerts", "changed", "draw", "released", "write_metrics"]

Json = dict[str, Any]

WATCHED = ("adherence", "faithfulness", "exact", "fields")
_PREFIX = "canary_"  # of a release's own scores on the same questions


def released(scores: Mapping[str, Any]) -> dict[str, float]:
    """What a release scored on its own canary set when it was made.

    Args:
        scores: Of its manifest.
    """
    after = scores.get("after", {})
    return {name: after[_PREFIX + name] for name in WATCHED if _PREFIX + name in after}


def alerts(now: Mapping[str, float], own: Mapping[str, float], tolerance: float) -> list[str]:
    """Which scores lie further below the release's own than is tolerated, and by how much."""
    return [
        f"{name} {now[name]:.3f} is {own[name] - now[name]:.3f} below the release's {own[name]:.3f}"
        for name in WATCHED
        if name in now and name in own and now[name] < own[name] - tolerance
    ]


def changed(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """Names of what is not as it was at the last replay; all of them before the first."""
    before = before or {}
    return [name for name in now if now[name] != before.get(name)]


def write_metrics(path: Path, record: Json) -> None:
    """A record for Prometheus, as node exporter's textfile collector reads it.

    Raises:
        SettingsError: The file cannot be written.
    """
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    labels = {"adapter": record["adapter"], "version": str(record["version"])}
    score = Gauge(
        "trivium_canary_score",
        "Share of canary questions that were answered well, by score.",
        [*labels, "score"],
        registry=registry,
    )
    for name, value in record["scores"].items():
        score.labels(**labels, score=name).set(value)
    for name, text, value in (
        ("alerts", "Scores below the alert threshold.", len(record["alerts"])),
        ("timestamp_seconds", "When the canary was last replayed.", record["time"]),
    ):
        gauge = Gauge(f"trivium_canary_{name}", text, [*labels], registry=registry)
        gauge.labels(**labels).set(value)
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written: {error}") from None


def draw(records: Sequence[Json], path: Path, tolerance: float) -> None:
    """Scores over the replays; a line where something was not as at the replay before.

    Raises:
        SettingsError: The file cannot be written, or its ending names no format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    for name in WATCHED:
        points = [(n, r["scores"][name]) for n, r in enumerate(records) if name in r["scores"]]
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", label=name)
    for number, record in enumerate(records):
        if number and record["changed"]:
            axis.axvline(number - 0.5, color="0.7", linestyle=":")
            axis.text(number - 0.45, 0.02, ", ".join(record["changed"]), rotation=90, fontsize=7)
        if record["alerts"]:
            axis.axvspan(number - 0.2, number + 0.2, color="tab:red", alpha=0.15)
    axis.set_xticks(range(len(records)), [r["date"][5:16].replace("T", "\n") for r in records])
    axis.set(ylim=(0, 1.03), ylabel="share of the canary set")
    axis.set_title(f"{records[-1]['adapter']}: alert {tolerance:g} below the release's own scores")
    axis.legend(loc="lower right")
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: the picture cannot be written: {error}") from None
    finally:
        plt.close(figure)
