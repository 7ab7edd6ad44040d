"""`trivium advise …`: what the stack's own figures say should be changed."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from serve_app.cli.bulk import Base, with_base
from serve_app.cli.client import Json
from serve_app.cli.console import out
from serve_app.cli.documents import Collection
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.cli.ledgers import duration, with_ledger
from serve_app.errors import NotFound
from serve_app.ledger.advice import knowledge_costs
from serve_app.ledger.database import Database
from serve_app.ledger.prices import PriceTable
from serve_app.ledger.report import Span
from serve_app.ledger.signals import ENOUGH, Signal, signals
from serve_app.settings import Settings, load

advise = typer.Typer(
    help="Say what to change, with the figures that say so.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_TURNS = (1, 2, 3, 5, 10, 20, 50, 100)


@advise.command("knowledge")
def knowledge(
    collection: Collection = "default",
    tenant: Annotated[str, typer.Option(help="Whose documents.")] = "default",
    model: Annotated[
        str | None, typer.Option(help="Priced model that answers; default: the expert's.")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Retrieve, or put the whole knowledge base into the prompt? What each costs as turns grow.

    Tokens are counted in the collection; prices come from the price table. The whole base is paid
    in full at the first turn and as cached input from then on, if the model has such a price.

    [bold]Example:[/bold] trivium advise knowledge --model claude-haiku-4-5
    """
    settings = load(config).resolved(Path.cwd())

    async def count(base: Base) -> tuple[int, int]:
        from serve_app.retrieval.catalogue import Catalogue

        place = settings.retrieval.tenancy.place(collection, tenant)
        index = await Catalogue(base.store, base.registry).index(place)
        return await base.registry.documents.held_by(index.name, tenant)

    chunks, tokens = with_base(settings, count)
    if not chunks:
        raise NotFound(f"{collection!r} holds nothing of tenant {tenant!r}")
    name = model or settings.expert.model
    costs = knowledge_costs(
        PriceTable.load(settings.ledger.prices).require(name),
        tokens,
        chunks,
        settings.retrieval.top_k,
        _TURNS,
    )
    room = settings.expert.room_for_evidence() if name == settings.expert.model else None
    record = {
        "collection": collection,
        "model": name,
        "chunks": chunks,
        "tokens": tokens,
        "fits": None if room is None else tokens <= room,
        "turns": [{"turns": t, "whole_usd": w, "retrieval_usd": r} for t, w, r in costs.rows],
        "crossover_turns": costs.crossover,
    }
    if as_json:
        print(json.dumps(record))
        return
    table = Table("turns", "whole base, $", "retrieval, $", title=f"{collection} by {name}")
    for turns, whole, retrieval in costs.rows:
        table.add_row(str(turns), f"{whole:.6f}", f"{retrieval:.6f}")
    out.print(table)
    out.print(f"{chunks} chunks, {tokens:,} tokens. {_verdict(costs.crossover)}")
    if record["fits"] is False:
        out.print(f"It does not fit {name}: there is room for {room:,} tokens of evidence.")


def _verdict(crossover: int | None) -> str:
    if crossover is None:
        return "Retrieval costs less, however many turns a conversation has."
    if crossover == 1:
        return "The whole base costs less from the first turn."
    return f"The whole base costs less from turn {crossover} of a conversation."


@advise.command("stack")
def stack(
    since: Annotated[str, typer.Option(help="As in 24h, 7d, 4w.", metavar="TIME")] = "30d",
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """What does the traffic not need? Says what could be removed, with the figures that say so.

    Looks for one road that takes nearly everything, a router slower than what follows it, retrieval
    that changes no answer, adapters that nobody hits, and a frontier that is no better than the
    expert. It reads the ledger's answers, and is silent where there are too few.

    [bold]Example:[/bold] trivium advise stack --since 7d
    """
    now = time.time()
    span = Span(now - duration(since).total_seconds(), now)

    async def work(database: Database, settings: Settings) -> tuple[int, list[Signal]]:
        return await signals(database, span, _promoted(settings))

    answers, found = with_ledger(config, work)
    if as_json:
        print(json.dumps({"answers": answers, "signals": [asdict(each) for each in found]}))
        return
    if answers < ENOUGH:
        out.print(f"{answers} answers are too few to say anything; {ENOUGH} are needed")
        return
    for signal in found:
        out.print(f"[bold]{signal.name}[/bold]: {escape(signal.evidence)}")
        out.print(f"  → {escape(signal.remove)}")
    if not found:
        out.print(f"nothing of the stack is idle, as far as {answers:,} answers tell")


def _promoted(settings: Settings) -> list[str]:
    from serve_app.expert.adapters import Registry

    if not settings.expert.lora.enabled:
        return []
    registry = Registry(settings.expert.adapters)
    return [name for name in registry.names() if registry.current(name)["version"]]
