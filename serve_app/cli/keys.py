"""`trivium keys …`: API keys of the gateway."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from serve_app.cli.client import Json
from serve_app.cli.console import errors, out
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.cli.ledgers import duration, when, with_ledger
from serve_app.cli.local import RunFile
from serve_app.ledger.database import Database
from serve_app.ledger.keys import Key, Keys
from serve_app.settings import Settings

keys = typer.Typer(
    help="API keys of the gateway: made, listed, rotated, revoked. Every request needs one, unless "
    "gateway.open says otherwise.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class Scope(StrEnum):
    """What a key may do."""

    CHAT = "chat"
    INGEST = "ingest"


Id = Annotated[str, typer.Argument(help="As `trivium keys list` shows it.")]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is; spend is reported under it.")],
    tenant: Annotated[str, typer.Option(help="Whose documents it reads.")] = "default",
    scope: Annotated[list[Scope] | None, typer.Option(help="Default: chat.")] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose documents it reads beside those for everybody; '*' is every group's. "
            "Default: none."
        ),
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option(help="As in 12h, 90d, 52w; default: never.", metavar="TIME")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown this once: the ledger keeps only its hash.

    [bold]Example:[/bold] trivium keys create ci --tenant acme --expires-in 90d
    """
    ends = time.time() + duration(expires_in).total_seconds() if expires_in else None
    scopes = [each.value for each in scope or [Scope.CHAT]]

    async def work(database: Database, settings: Settings) -> tuple[Key, str]:
        if RunFile.of(settings).process() and not await Keys(database).all():
            errors.print("a stack that is open now stays open until it is started again")
        return await Keys(database).create(name, tenant, scopes, ends, group or ())

    _show(*with_ledger(config, work), as_json)


@keys.command("list")
def list_(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Every key, those that ended too."""

    async def work(database: Database, _: Settings) -> list[Key]:
        return await Keys(database).all()

    found, now = with_ledger(config, work), time.time()
    if as_json:
        print(json.dumps([{**asdict(key), "state": key.state(now)} for key in found]))
        return
    table = Table("id", "name", "tenant", "scopes", "groups", "made", "expires", "state")
    for key in found:
        scopes, times = ", ".join(key.scopes), (when(key.created_at), when(key.expires_at))
        names = (escape(key.name), escape(key.tenant))
        groups = escape(", ".join(key.groups))
        table.add_row(key.id, *names, scopes, groups, *times, key.state(now))
    out.print(table)


@keys.command()
def rotate(
    key_id: Id,
    overlap: Annotated[
        str, typer.Option(help="How long the old one goes on beside it.", metavar="TIME")
    ] = "24h",
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """A new key in an old one's place: same name, tenant, scopes, groups and length of life."""
    seconds = duration(overlap).total_seconds()

    async def work(database: Database, _: Settings) -> tuple[Key, str]:
        return await Keys(database).rotate(key_id, seconds)

    _show(*with_ledger(config, work), as_json)


@keys.command()
def revoke(key_id: Id, config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """End a key. Running gateways know within two seconds."""

    async def work(database: Database, _: Settings) -> Key:
        return await Keys(database).revoke(key_id)

    key = with_ledger(config, work)
    if as_json:
        print(json.dumps({"id": key.id, "revoked": True}))
    else:
        out.print(f"{escape(key.name)} ({key.id}) is revoked")


def _show(key: Key, secret: str, as_json: bool) -> None:
    if as_json:
        shown: dict[str, Any] = {**asdict(key), "key": secret}
        print(json.dumps(shown))
        return
    whose = escape(f"{key.name} of {key.tenant}")
    errors.print(f"{whose}, id {key.id}; keep it, it is not shown again:")
    print(secret)
