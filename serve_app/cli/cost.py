"""`trivium cost …`: what answers cost."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from serve_app.cli.client import Json
from serve_app.cli.console import errors, out
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.cli.ledgers import duration, when, with_ledger
from serve_app.domain import Usage
from serve_app.ledger import corrections, pictures
from serve_app.ledger import forecast as forecasts
from serve_app.ledger.corrections import Correction
from serve_app.ledger.database import Database
from serve_app.ledger.prices import PriceTable
from serve_app.ledger.report import By, Line, Span, spend
from serve_app.ledger.retention import kept_from
from serve_app.settings import Settings, load

cost = typer.Typer(
    help="What answers cost, and what a successful one does.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


_MOST_TOKENS = 10**12  # more fits into no column, as dollars
_VOLUMES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)


@cost.command()
def report(
    by: Annotated[list[By] | None, typer.Option(help="May be repeated.")] = None,
    since: Annotated[str, typer.Option(help="As in 24h, 7d, 4w.", metavar="TIME")] = "30d",
    tenant: Annotated[str | None, typer.Option(help="One alone.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw it into a .png.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as a page.")] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Spend, and what a successful answer cost, beside RAG-only and all-frontier.

    Successful: it was judged good (`POST /v1/feedback`, or the contract of an adapter). Nothing is
    known of answers that nobody judged: what a success costs is told by the judged ones alone, with
    95 % intervals. The other stacks are priced for each answer alone, and as if every one of theirs
    were good.

    [bold]Example:[/bold] trivium cost report --by route --by day --since 7d --html report.html
    """
    groups = by or [By.ROUTE]
    now = time.time()
    asked_from = now - duration(since).total_seconds()

    async def work(database: Database, settings: Settings) -> tuple[Span, list[Line], list[Line]]:
        kept = kept_from(now, settings.ledger.retention_days)
        span = Span(max(asked_from, kept), now)
        lines = await spend(database, span, groups, tenant=tenant)
        return span, lines, await spend(database, span, (), tenant=tenant)

    span, lines, totals = with_ledger(config, work)
    if span.start > asked_from:
        errors.print(f"the ledger keeps no more (ledger.retention_days): from {when(span.start)}")
    _warn_of_stale_prices(config)
    total = totals[0] if totals else None
    if chart:
        pictures.draw(lines, total, chart)
    if html:
        pictures.page(groups, lines, total, span, html)
    if as_json:
        shown = {"start": span.start, "end": span.end, "lines": [line.public() for line in lines]}
        print(json.dumps(shown | {"total": total.public() if total else None}))
        return
    if total is None:
        out.print("the ledger has no answers in this time; ask something: trivium ask …")
        return
    out.print(_table(groups, lines, total))
    out.print(pictures.note(total))


@cost.command()
def forecast(
    assumptions: Annotated[
        Path, typer.Option("--assumptions", "-a", help="YAML; copy this one and make it yours.")
    ] = Path("configs/forecast.yaml"),
    volume: Annotated[
        list[int] | None, typer.Option(min=1, help="Answers a month; may be repeated.")
    ] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw it into a .png.")] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Is a hybrid stack worth building? What four stacks cost a month as volume grows.

    RAG-only, fine-tuned-only, long-context (the whole base in a cached prompt) and hybrid, with
    what is paid once spread over months. Dollars of a successful answer, and from how many answers
    on the hybrid's is cheaper. It is arithmetic on assumptions: read them.

    [bold]Example:[/bold] trivium cost forecast --volume 50000 --chart forecast.png
    """
    prices = PriceTable.load(load(config).resolved(Path.cwd()).ledger.prices)
    made = forecasts.Forecast(forecasts.Assumptions.load(assumptions), prices)
    months = forecasts.table(made, volume or _VOLUMES)
    beaten = forecasts.crossovers(made)
    if chart:
        pictures.draw_forecast(made, chart)
    if as_json:
        shown = {
            str(answers): {stack: _plain(month) for stack, month in by_stack.items()}
            for answers, by_stack in months.items()
        }
        print(json.dumps({"months": shown, "hybrid_beats_from": beaten}))
        return
    table = Table("answers a month", *(stack.replace("_", "-") for stack in forecasts.STACKS))
    for answers, by_stack in months.items():
        cells = [f"${m.total:,.0f} (${m.per_success:.4f})" for m in by_stack.values()]
        table.add_row(f"{answers:,}", *cells)
    out.print(table)
    out.print("dollars a month, building and upkeep included (and of a successful answer)")
    for stack, fewest in beaten.items():
        when_ = "never" if fewest is None else f"from {fewest:,} answers a month on"
        out.print(f"hybrid beats {stack.replace('_', '-')}: {when_}")


@cost.command()
def correct(
    call_id: Annotated[str, typer.Argument(help="As the log has it, or the provider's invoice.")],
    prompt_tokens: Annotated[int, typer.Option(min=0, max=_MOST_TOKENS)],
    completion_tokens: Annotated[int, typer.Option(min=0, max=_MOST_TOKENS)],
    note: Annotated[str, typer.Option(help="Why; it is kept.")],
    cached_tokens: Annotated[
        int, typer.Option(min=0, max=_MOST_TOKENS, help="Of the prompt's.")
    ] = 0,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Book a call with other tokens than its provider claimed, where the claim was wrong.

    The claim is booked as it comes, and may have used up a limit. The call, its answer's cost and
    every limit it counts in are set right at once; what was there before is kept with the note.

    [bold]Example:[/bold] trivium cost correct 5f2c86a5… --prompt-tokens 1200 --completion-tokens 80
    --note "broken upstream, ticket 4711"
    """
    if cached_tokens > prompt_tokens:
        raise typer.BadParameter("--cached-tokens are a part of --prompt-tokens")
    usage = Usage(prompt_tokens, completion_tokens, cached_tokens)
    now = time.time()

    async def work(database: Database, settings: Settings) -> Correction:
        prices = PriceTable.load(settings.ledger.prices, settings.ledger.machines)
        return await corrections.correct(database, prices, call_id, usage, note, now)

    made = with_ledger(config, work)
    if as_json:
        print(json.dumps(asdict(made)))
        return
    out.print(
        f"{made.model}: ${made.before_usd:.6f} ({made.before.prompt_tokens:,} + "
        f"{made.before.completion_tokens:,} tokens) is now ${made.after_usd:.6f} "
        f"({usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens)"
    )


def _plain(month: forecasts.Month) -> dict[str, float | None]:
    """As JSON, which knows no infinity."""
    each = month.per_success if math.isfinite(month.per_success) else None
    return {**asdict(month), "total": month.total, "per_success": each}


def _warn_of_stale_prices(config: Path) -> None:
    ledger = load(config).resolved(Path.cwd()).ledger
    table = PriceTable.load(ledger.prices)
    if stale := table.stale([ledger.baseline_model], datetime.now(UTC).date()):
        errors.print(f"[yellow]prices may have changed[/yellow]: {', '.join(stale)}")


def _table(groups: list[By], lines: list[Line], total: Line) -> Table:
    table = Table(*groups, *pictures.COLUMNS)
    for line in lines:
        table.add_row(*map(escape, line.group), *pictures.cells(line))
    table.add_section()
    table.add_row("all", *[""] * (len(groups) - 1), *pictures.cells(total), style="bold")
    return table
