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
    "judged",
    "good",
    "degraded",
    "spent",
    "a success",
    "RAG-only",
    "all-frontier",
    "saved",
)
_UNJUDGED = "no answer was judged"
_NOTE = (
    "Nothing is known of the others. What a success costs, and what the other stacks would have "
    "taken for the same answers, is of those judged; in brackets 95 % intervals (Wilson), as if "
    "they had been chosen by chance. Spent is on all. RAG-only and all-frontier are priced for "
    "each answer alone, and as if every one of theirs were good."
)


def note(total: Line) -> str:
    """What the figures rest on."""
    if not total.judged:
        return (
            f"{_UNJUDGED[0].upper()}{_UNJUDGED[1:]}, so nobody knows what a successful one cost. "
            "Judge them by POST /v1/feedback, or give an adapter a contract."
        )
    by = " and ".join(f"{count:,} by {judge}" for judge, count in sorted(total.judges.items()))
    return f"{total.judged:,} of {total.answered:,} answers were judged, {by}. {_NOTE}"


def cells(line: Line) -> list[str]:
    """A line's cells under `COLUMNS`: dollars of all answers, and of one that was good."""
    return [
        f"{line.answered} of {line.asked}",
        f"{line.judged} of {line.answered}",
        _good(line),
        str(line.degraded),
        f"${line.spent.usd:.4f}",
        _success(line),
        _each(line.baseline_usd_per_answer),
        _each(line.all_frontier_usd_per_answer),
        "–" if line.saved is None else f"{line.saved:.0%}",
    ]


def _good(line: Line) -> str:
    if line.success is None or line.success_interval is None:
        return "–"
    low, high = line.success_interval
    return f"{line.success:.0%} ({low:.0%}–{high:.0%})"


def _success(line: Line) -> str:
    if line.usd_per_success_interval is None:
        return "–"
    low, high = line.usd_per_success_interval
    if line.usd_per_success is None or high is None:
        return f"above {_each(low)}"
    return f"{_each(line.usd_per_success)} ({_each(low)} – {_each(high)})"


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
        note=note(total) if total else "",
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
        ("all-frontier", "#8d99ae", lambda line: line.all_frontier_usd_per_answer),
    )
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.7 * len(shown)), layout="constrained")
    for offset, (label, colour, of) in enumerate(bars):
        heights = [(of(line) or 0.0) * 1000 for line in shown]
        places = [place + 0.27 * (offset - 1) for place in range(len(shown))]
        axis.barh(places, heights, height=0.25, color=colour, label=label)
    for place, line in enumerate(shown):
        _draw_interval(axis, place - 0.27, line)
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


def _draw_interval(axis: Any, place: float, line: Line) -> None:
    """How sure the bar of a success is, or why there is none."""
    if line.usd_per_success is None or line.usd_per_success_interval is None:
        reason = "none was good" if line.judged else _UNJUDGED
        axis.text(0, place, f" {reason}", va="center", fontsize=8, color="#666")
        return
    low, high = line.usd_per_success_interval
    if high is not None:
        ends = [low * 1000, high * 1000]
        axis.plot(ends, [place, place], color="#222", linewidth=1, marker="|")


def _each(dollars: float | None) -> str:
    return "–" if dollars is None else f"${dollars:.6f}"
