"""`trivium evaluate expert`: what an adapter is worth, beside its base."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from serve_app.cli.client import Json
from serve_app.cli.console import Bars, out
from serve_app.cli.generation import open_engine
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.errors import SettingsError
from serve_app.settings import Settings, load

if TYPE_CHECKING:
    from serve_app.evaluation.answers import Answers
    from serve_app.evaluation.expert import Report, Way
    from serve_app.evaluation.trials import Progress as OnProgress
    from serve_app.evaluation.trials import Task, Trial
    from serve_app.expert.batch import Response


def evaluate_expert(
    data: Annotated[
        Path,
        typer.Option("--data", "-d", help='Rows, JSONL: {"messages": […]}, the answer last.'),
    ],
    adapter: Annotated[
        Path | None, typer.Option(help="A trained adapter's folder; default: the base alone.")
    ] = None,
    contract: Annotated[
        Path | None, typer.Option(help="Form of the answers; default: the adapter's own.")
    ] = None,
    support: Annotated[
        Path | None,
        typer.Option(
            help="YAML: how inputs spell what answers write otherwise; default: support.yaml "
            "beside the adapter."
        ),
    ] = None,
    prompt: Annotated[
        Path | None,
        typer.Option(help="YAML: `messages` that the base alone is given first."),
    ] = None,
    structured: Annotated[
        bool,
        typer.Option(
            "--structured/--no-structured", help="Ask each once more with the form enforced."
        ),
    ] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Folder or hub id; default: the expert's own model.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer; default: expert.max_output_tokens.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            help="Keep every answer here, JSONL, with what is wrong with it; what it holds "
            "already is not asked again."
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Add the scores to this file, as `trivium adapters add` takes it."),
    ] = None,
    called: Annotated[
        str, typer.Option("--as", help="What these rows are called in --scores.")
    ] = "validation",
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Measure an adapter beside its base: exact match, fields, form, faithfulness, time and cost.

    Answers come from vLLM in this process, greedily decoded, with 95 % bootstrap intervals. Rows
    are asked as they are, but for [bold]--prompt[/bold].
    Fields are those of the contract; without one, those of JSON or of a meaning representation
    such as [bold]inform(name[…])[/bold], if all references are one. An answer is faithful if the
    user's turns support every figure, date, time, code and name in it.

    [bold]Example:[/bold] trivium evaluate expert -d configs/demo/house_style/test.jsonl
    --adapter my-adapter --contract configs/demo/house_style/contract.yaml
    """
    from serve_app.evaluation import trials
    from serve_app.evaluation.answers import Answers

    settings = load(config if config.is_file() else None).resolved(Path.cwd())
    if adapter:
        contract = contract or trials.beside(adapter, "contract")
        support = support or trials.beside(adapter, "support.yaml")
    task = trials.task(data, contract, support, limit)
    ways = trials.trials(
        task,
        adapter=adapter is not None,
        structured=structured,
        prompt=trials.prompt(prompt) if prompt else None,
    )
    known = Answers(answers, hashlib.sha256(data.read_bytes()).hexdigest()[:12])
    _ask(settings, base, adapter, task, ways, known, max_tokens)
    known.finish(task.rows, task.judge)
    report = _report(
        settings, base, adapter, task, {w.name: known.of(w.name, task.rows) for w in ways}
    )
    if scores:
        _note(scores, called, report)
    if as_json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        show(report)


def _ask(
    settings: Settings,
    base: str | None,
    adapter: Path | None,
    task: Task,
    ways: list[Trial],
    known: Answers,
    max_tokens: int | None,
) -> None:
    """Whatever is not answered yet."""
    from serve_app.evaluation import trials

    left = []
    for each in ways:
        missing = known.missing(each.name, task.rows)
        requests = [request for request in each.requests if request.id in missing]
        left += [dataclasses.replace(each, requests=requests)] if requests else []
    if not left:
        return
    with progress() as on_progress:
        size = max_tokens or settings.expert.max_output_tokens
        asked = [request for each in left for request in each.requests]
        engine = open_engine(settings, base, adapter, asked, size)
        for each in left:
            for batch in trials.run(engine, task, each, size, on_progress):
                known.add(each.name, batch)


@contextlib.contextmanager
def progress() -> Iterator[OnProgress]:
    """A bar for each way, as it begins."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns) as shown:
        starting = shown.add_task("starting vLLM", total=None)
        bars: dict[str, Any] = {}

        def on_progress(name: str, done: int, total: int) -> None:
            if not bars:
                shown.remove_task(starting)
            if name not in bars:
                bars[name] = shown.add_task(name, total=total)
            shown.update(bars[name], completed=done)

        yield on_progress


def _report(
    settings: Settings,
    base: str | None,
    adapter: Path | None,
    task: Task,
    answers: dict[str, list[Response]],
) -> Report:
    from serve_app.evaluation import trials
    from serve_app.ledger.prices import PriceTable

    model = base or settings.expert.model
    prices = PriceTable.load(settings.ledger.prices)
    ways = {name: trials.summary(task, each, prices, model) for name, each in answers.items()}
    return trials.report(task, model, str(adapter) if adapter else None, ways)


def show(report: Report) -> None:
    """The table: a line for each way, scores with their intervals below."""
    title = f"{report.rows} rows, {report.base}, adapter {report.adapter or '–'}"
    names = list(dict.fromkeys(name for way in report.ways.values() for name in way.scores))
    table = Table(
        "", *names, "tokens in", "out", "s", "$/1000", title=title, title_justify="left",
        show_edge=False, pad_edge=False,
    )  # fmt: skip
    for name, way in report.ways.items():
        style = "bold" if name.startswith("adapter") else ""
        table.add_row(name, *_cells(way, names), style=style)
    out.print(table)
    out.print(f"references that the rule holds to be faithful: {report.references_faithful:.3f}")
    for note in report.notes:
        out.print(f"[yellow]note[/yellow] {escape(note)}")


def _cells(way: Way, names: list[str]) -> list[str]:
    scores = [
        f"{way.scores[n][0]:.3f}\n{way.scores[n][1]:.2f}–{way.scores[n][2]:.2f}"
        if n in way.scores
        else "–"
        for n in names
    ]
    usd = "–" if way.usd is None else f"{way.usd:.4f}"
    return [
        *scores,
        f"{way.prompt_tokens:,}",
        f"{way.completion_tokens:,}",
        f"{way.seconds:.0f}",
        usd,
    ]


def _note(path: Path, called: str, report: Report) -> None:
    """Add to a file of scores: the base's as `before`, the adapter's as `after`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: not scores: {error}") from None
    for part, name in (("before", "base"), ("after", "adapter")):
        if name in report.ways:
            mine = {f"{called}_{k}": round(v[0], 4) for k, v in report.ways[name].scores.items()}
            found[part] = {**found.get(part, {}), **mine}
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
