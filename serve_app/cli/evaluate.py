"""`trivium evaluate …`: how good the parts of the stack are."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from serve_app import models
from serve_app.cli.client import Json
from serve_app.cli.console import Bars, errors, out
from serve_app.cli.layers import DEFAULT_CONFIG, Config, offline_router
from serve_app.errors import SettingsError
from serve_app.router.rows import read_rows
from serve_app.settings import Settings, load

if TYPE_CHECKING:
    from serve_app.evaluation import retrieval, router
    from serve_app.evaluation.judgements import Judgements
    from serve_app.retrieval.preparing import Models
    from serve_app.retrieval.retriever import Reranker
    from serve_app.settings import RetrievalSettings

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
OutcomesFile = Annotated[
    Path | None,
    typer.Option("--outcomes", help="What is known of the roads; default: that of the settings."),
]
BaseFiles = Annotated[
    list[str],
    typer.Option("--base", help="Files of the knowledge base; repeat for more. Default: none."),
]


@evaluate.command("router")
def evaluate_router(
    data: Annotated[Path, typer.Option("--data", "-d", help="Labelled rows, JSONL.")],
    heads: HeadsFile = None,
    policy: PolicyFile = None,
    outcomes: OutcomesFile = None,
    base: BaseFiles = [],  # noqa: B006  # Typer copies it
    plot: Annotated[
        Path | None,
        typer.Option(help="Write reliability and cost-quality curves here (.png, .svg)."),
    ] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Measure the router: accuracy, F1, AUC, calibration, cost and quality, flips, latency.

    Baselines stand in the same table: the most frequent label, prompt length, TF-IDF with logistic
    regression and, for recorded outcomes, k nearest neighbours (both cross-validated on these very
    rows, which flatters them), each model alone, a random mix of the two at the same cost, and an
    oracle. In brackets: 95 % intervals.

    [bold]Example:[/bold] trivium evaluate router -d tests/data/router_questions.jsonl
    """
    from serve_app.evaluation.router import evaluate as measure

    rows = read_rows(data)
    router = offline_router(config, heads, policy, outcomes, base)
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
    _show_router(report)


@evaluate.command("retrieval")
def evaluate_retrieval(
    documents: Annotated[
        Path, typer.Option("--documents", help='JSONL: {"id","title","text","metadata"?}.')
    ],
    queries: Annotated[
        Path,
        typer.Option("--queries", help='JSONL: {"id","query","relevant"}, ids of documents.'),
    ],
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N queries.")
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            "--rerank", help="Measure this cross-encoder too (folder or hub id); default: settings."
        ),
    ] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Measure retrieval: nDCG, recall, MRR and latency of dense, BM25 and hybrid search.

    The documents go into an index that is made for this and removed afterwards: a file of Milvus
    Lite, or a collection on the server that the settings name. BM25 by the package bm25s stands in
    the same table.

    [bold]Example:[/bold] trivium evaluate retrieval --documents d.jsonl --queries q.jsonl
    """
    from serve_app.evaluation import judgements

    read = judgements.read(documents, queries)
    default = config == DEFAULT_CONFIG and not config.is_file()
    settings = load(None if default else config).resolved(Path.cwd())
    embedding, reranker = _loaded(settings, rerank or settings.retrieval.rerank_model)
    report = asyncio.run(_measured(settings.retrieval, embedding, read, limit, reranker))
    if as_json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        _show_retrieval(report)


def _loaded(settings: Settings, rerank: str | None) -> tuple[Models, Reranker | None]:
    """The embedding models with their default in memory, and the cross-encoder if one is named.

    Raises:
        SettingsError: A model cannot be loaded; names it.
    """
    from transformers.utils import logging

    from serve_app.retrieval.embedder import CrossEncoder, EmbeddingModels, loading

    logging.disable_progress_bar()
    retrieval = settings.retrieval
    embedding = EmbeddingModels(
        retrieval.embedding_name, models.embedding_models(), retrieval.embedding
    )
    with errors.status("loading models"):
        with loading(embedding.default):
            embedding.model(embedding.default)
        if rerank is None:
            return embedding, None
        with loading(rerank):
            return embedding, CrossEncoder(rerank)


async def _measured(
    settings: RetrievalSettings,
    embedding: Models,
    read: Judgements,
    limit: int | None,
    reranker: Reranker | None,
) -> retrieval.Report:
    """The report, with a progress bar for each step."""
    from serve_app.evaluation.retrieval import evaluate as measure

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns) as progress:
        bars: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = progress.add_task(step, total=total)
            progress.update(bars[step], completed=done)

        report = await measure(
            settings, embedding, read.documents, read.queries[:limit], reranker, show
        )
    if not read.blank:
        return report
    note = f"documents without text, which nothing can find: {len(read.blank)}"
    return dataclasses.replace(report, notes=[*report.notes, note])


def _show_retrieval(report: retrieval.Report) -> None:
    names = list(next(iter(report.scores.values())))
    title = f"{report.queries} queries, {report.documents} documents, {report.model}"
    # Without its frame the table fits a terminal of 80 columns.
    table = Table("", *names, title=title, title_justify="left", show_edge=False, pad_edge=False)
    for way, scores in report.scores.items():
        cells = [
            f"{value:.1f}" if n.endswith("_ms") else f"{value:.3f}" for n, value in scores.items()
        ]
        table.add_row(way, *cells, style="bold" if way.startswith("hybrid") else "")
    out.print(table)
    out.print(f"{report.chunks} chunks, ingested in {report.ingest_s:.1f} s")
    for note in report.notes:
        out.print(f"[yellow]note[/yellow] {escape(note)}")


def _score(value: float | None, ends: tuple[float, float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" + (f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else "")


def _show_router(report: router.Report) -> None:
    for section in report.sections:
        names = list(dict.fromkeys(name for scores in section.scores.values() for name in scores))
        table = Table(
            "", *names, title=f"{section.name}, {section.rows} rows", title_justify="left"
        )
        for method, scores in section.scores.items():
            ends = section.intervals.get(method, {})
            cells = [_score(scores.get(name), ends.get(name)) for name in names]
            style = "bold" if method == "router" else ""
            table.add_row(method, *cells, style=style)
        out.print(table)
        for note in section.notes:
            out.print(f"[dim]{escape(note)}[/dim]")
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
