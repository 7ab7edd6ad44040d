"""`trivium ledger …`: what the ledger keeps."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer

from serve_app.cli.client import Json
from serve_app.cli.console import out
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.cli.ledgers import duration, with_ledger
from serve_app.errors import SettingsError
from serve_app.ledger import retention
from serve_app.ledger.database import Database
from serve_app.ledger.retention import Pruned
from serve_app.settings import Settings

ledger = typer.Typer(
    help="What the ledger keeps, and for how long.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@ledger.callback()
def _group() -> None:
    """A group, although it has one command yet."""


@ledger.command()
def prune(
    older_than: Annotated[
        str | None,
        typer.Option(help="As in 90d, 52w; default: ledger.retention_days.", metavar="TIME"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Remove answers, calls, feedback and corrections that are too old. Reports begin then.

    Gateways do the same every hour, by `ledger.retention_days`. It works in small batches, beside
    running gateways. Counters of this month and the one before it stay, so that limits hold.

    [bold]Example:[/bold] trivium ledger prune --older-than 90d --dry-run
    """
    asked = None if older_than is None else duration(older_than).days

    async def work(database: Database, settings: Settings) -> Pruned:
        days = settings.ledger.retention_days if asked is None else asked
        if not days:
            raise SettingsError("say what is too old: --older-than 90d, or ledger.retention_days")
        act = retention.due if dry_run else retention.prune
        return await act(database, days, time.time())

    found = with_ledger(config, work)
    if as_json:
        print(json.dumps({"dry_run": dry_run, **asdict(found)}))
        return
    counts = ", ".join(f"{count:,} {table}" for table, count in asdict(found).items())
    out.print(f"{'would remove' if dry_run else 'removed'} {counts}")
