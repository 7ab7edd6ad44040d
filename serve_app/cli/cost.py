"""`trivium cost …`: what answers cost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from serve_app.cli.client import Json
from serve_app.cli.console import out
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.cli.ledgers import duration, with_ledger
from serve_app.ledger import pictures
from serve_app.ledger.database import Database
from serve_app.ledger.report import By, Line, Span, spend
from serve_app.settings import Settings

cost = typer.Typer(
    help="What answers cost, and what a successful one does.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@cost.callback()
def _group() -> None:
    """Without a callback Typer would take a group of one command for that command."""


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

    Successful: it came to its end, and was not judged bad (`POST /v1/feedback`, or the contract of
    an adapter). Where some were judged, their share speaks for all. The other stacks are priced for
    each answer alone, and as if every one of theirs were good.

    [bold]Example:[/bold] trivium cost report --by route --by day --since 7d --html report.html
    """
    groups = by or [By.ROUTE]
    now = time.time()
    span = Span(now - duration(since).total_seconds(), now)

    async def work(database: Database, _: Settings) -> tuple[list[Line], list[Line]]:
        lines = await spend(database, span, groups, tenant=tenant)
        return lines, await spend(database, span, (), tenant=tenant)

    lines, totals = with_ledger(config, work)
    total = totals[0] if totals else None
    if chart:
        pictures.draw(lines, total, chart)
    if html:
        pictures.page(groups, lines, total, span, html)
    if as_json:
        shown = {"lines": [line.public() for line in lines]}
        print(json.dumps(shown | {"total": total.public() if total else None}))
        return
    if total is None:
        out.print("the ledger has no answers in this time; ask something: trivium ask …")
        return
    out.print(_table(groups, lines, total))


def _table(groups: list[By], lines: list[Line], total: Line) -> Table:
    table = Table(*groups, *pictures.COLUMNS)
    for line in lines:
        table.add_row(*line.group, *pictures.cells(line))
    table.add_section()
    table.add_row("all", *[""] * (len(groups) - 1), *pictures.cells(total), style="bold")
    return table
