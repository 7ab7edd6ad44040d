"""A report for people who look rather than read: a chart, and a page that holds it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from serve_app.errors import SettingsError
from serve_app.ledger.forecast import STACKS, Forecast
from serve_app.ledger.report import Line, Span

COLUMNS = (
    "answers",
    "good",
    "degraded",
    "spent",
    "a success",
    "RAG-only",
    "all-frontier",
    "saved",
)


def cells(line: Line) -> list[str]:
    """A line's cells under `COLUMNS`: dollars of all answers, and of one that was good."""
    good = "–" if line.success is None else f"{line.success:.0%} of {line.good + line.bad}"
    return [
        f"{line.answered} of {line.asked}",
        good,
        str(line.degraded),
        f"${line.usd:.4f}",
        _each(line.usd_per_success),
        _each(line.baseline_usd_per_answer),
        _each(line.all_frontier_usd / line.answered if line.answered else None),
        "–" if (share := saved(line)) is None else f"{share:.0%}",
    ]


def saved(line: Line) -> float | None:
    """How much less a success cost than a RAG-only answer, as a share of that."""
    ours, theirs = line.usd_per_success, line.baseline_usd_per_answer
    return None if ours is None or not theirs else 1 - ours / theirs


def draw(lines: Sequence[Line], total: Line | None, path: Path) -> None:
    """Dollars of a successful answer beside the other stacks', for each group.

    Raises:
        SettingsError: The file cannot be written, or its ending names no format.
    """
    try:
        path.write_bytes(_png(lines, total, path.suffix.removeprefix(".") or "png"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: the chart cannot be written: {error}") from None


def draw_forecast(forecast: Forecast, path: Path) -> None:
    """Dollars of a successful answer of each stack over volume.

    Raises:
        SettingsError: The file cannot be written, or its ending names no format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    volumes = [round(10 ** (power / 20)) for power in range(60, 161)]
    for stack, colour in zip(STACKS, ("#c8553d", "#8d99ae", "#e0a458", "#2a7f62"), strict=True):
        dollars = [forecast.month(stack, answers).per_success for answers in volumes]
        axis.loglog(volumes, dollars, color=colour, label=stack.replace("_", "-"))
    axis.set(xlabel="answers a month", ylabel="US dollars of a successful answer")
    axis.grid(visible=True, which="major", alpha=0.3)
    axis.legend()
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: the chart cannot be written: {error}") from None
    finally:
        plt.close(figure)


def page(
    groups: Sequence[str], lines: Sequence[Line], total: Line | None, span: Span, path: Path
) -> None:
    """The report as one HTML file that needs nothing beside it.

    Raises:
        SettingsError: The file cannot be written.
    """
    source = files(__package__).joinpath("report.html").read_text("utf-8")
    template = jinja2.Environment(autoescape=True).from_string(source)
    rows = [(*line.group, *cells(line)) for line in lines]
    text = template.render(
        columns=(*groups, *COLUMNS),
        rows=rows,
        total=("all", *[""] * (len(groups) - 1), *cells(total)) if total else None,
        start=datetime.fromtimestamp(span.start, UTC),
        end=datetime.fromtimestamp(span.end, UTC),
        chart=base64.b64encode(_png(lines, total, "png")).decode(),
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: the page cannot be written: {error}") from None


def _png(lines: Sequence[Line], total: Line | None, form: str) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [*lines, *([total] if total else [])]
    names = [" · ".join(line.group) or "all" for line in shown]
    bars: tuple[tuple[str, str, Any], ...] = (
        ("Trivium, a success", "#2a7f62", lambda line: line.usd_per_success),
        ("RAG-only", "#c8553d", lambda line: line.baseline_usd_per_answer),
        (
            "all-frontier",
            "#8d99ae",
            lambda line: line.all_frontier_usd / line.answered if line.answered else None,
        ),
    )
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.7 * len(shown)), layout="constrained")
    for offset, (label, colour, of) in enumerate(bars):
        heights = [(of(line) or 0.0) * 1000 for line in shown]
        places = [place + 0.27 * (offset - 1) for place in range(len(shown))]
        axis.barh(places, heights, height=0.25, color=colour, label=label)
    axis.set_yticks(range(len(shown)), names)
    axis.invert_yaxis()
    axis.set_xlabel("US dollars per 1,000 answers")
    axis.legend()
    held = io.BytesIO()
    try:
        figure.savefig(held, format=form, dpi=150)
    finally:
        plt.close(figure)
    return held.getvalue()


def _each(dollars: float | None) -> str:
    return "–" if dollars is None else f"${dollars:.6f}"
