"""`trivium evaluate …`: how good the parts of the stack are."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from serve_app import models
from serve_app.cli.client import Json
from serve_app.cli.console import errors, out
from serve_app.cli.layers import DEFAULT_CONFIG, Config, offline_router
from serve_app.errors import SettingsError
from serve_app.router.rows import read_rows
from serve_app.settings import load

if TYPE_CHECKING:
    from serve_app.evaluation.retrieval import Report
    from serve_app.retrieval.retriever import Models, Reranker

evaluate = typer.Typer(
    help="Measure a part of the stack on labelled data, beside trivial baselines.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

HeadsFile = Annotated[
    Path | None,
    typer.Option("--heads", help="Router heads; default: those of the settings."),
]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", help="Router policy; default: that of the settings.")
]


@evaluate.command("router")
def evaluate_router(
    data: Annotated[Path, typer.Option("--data", "-d", help="Labelled rows, JSONL.")],
    heads: HeadsFile = None,
    policy: PolicyFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Write reliability and cost-quality curves here (.png, .svg)."),
    ] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Measure the router: accuracy, F1, AUC, calibration, confusion, cost-quality, latency.

    Baselines stand in the same table: the most frequent label, prompt length, and TF-IDF with
    logistic regression (cross-validated on these very rows, which flatters it).

    [bold]Example:[/bold] trivium evaluate router -d tests/data/router_questions.jsonl
    """
    from serve_app.evaluation.router import evaluate as measure

    rows = read_rows(data)
    router = offline_router(config, heads, policy)
    with errors.status(f"deciding {len(rows)} queries"):
        report = measure(router, rows)
    if not report.sections:
        raise SettingsError(
            f"{data}: no label that can be measured; ten rows or more need route, intent, "
            "volatile (0 and 1), or weak_correct and strong_correct with the strong one ahead"
        )
    if plot:
        from serve_app.evaluation.plots import draw

        draw(report, plot)
    if as_json:
        print(json.dumps(dataclasses.asdict(report)))
        return
    for section in report.sections:
        names = list(dict.fromkeys(name for scores in section.scores.values() for name in scores))
        table = Table(
            "", *names, title=f"{section.name}, {section.rows} rows", title_justify="left"
        )
        for method, scores in section.scores.items():
            cells = [f"{scores[name]:.3f}" if name in scores else "" for name in names]
            style = "bold" if method == "router" else ""
            table.add_row(method, *cells, style=style)
        out.print(table)
        if section.confusion:
            confusion = Table("true \\ chosen", *section.confusion)
            for name, counts in section.confusion.items():
                confusion.add_row(name, *map(str, counts.values()))
            out.print(confusion)
    speed = report.latency
    out.print(
        f"one query: p50 {speed['p50_ms']:.2f} ms, p99 {speed['p99_ms']:.2f} ms · "
        f"in batches of 64: {speed['per_second']:.0f} queries a second"
    )
