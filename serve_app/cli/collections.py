"""`trivium collections …`: what the knowledge base holds, and whether all of it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from serve_app.cli.bulk import Base, opened, with_base
from serve_app.cli.client import Json
from serve_app.cli.console import errors, out
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.errors import NotFound
from serve_app.settings import load
from serve_app.settings.sections import Tenancy

collections = typer.Typer(
    help="What the knowledge base holds, and whether all of it is there.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_NAMED = 20  # findings that are shown of each collection
_ERASED = 500  # documents removed together

Name = Annotated[str, typer.Argument(help="Which collection.")]


@collections.command("list")
def list_(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Collections, with their indexes and how many documents and chunks they hold.

    [bold]Example:[/bold] trivium collections list
    """

    async def work(base: Base) -> list[dict[str, Any]]:
        names = await base.registry.collections.names()
        return [await _described(base, name, settings.retrieval.tenancy) for name in names]

    settings = load(config).resolved(Path.cwd())
    found = with_base(settings, work)
    if as_json:
        print(json.dumps(found))
        return
    columns = ("documents", "chunks", "index", "model", "vector index", "also there")
    table = Table("collection", "made by", *columns)
    for each in found:
        filling = f"{each['filling']} (being filled)" if each["filling"] else ""
        table.add_row(
            escape(each["name"]),
            escape(each["owner"]),
            _count(each["documents"].get("in", 0)),
            _count(each["chunks"]),
            each["index"] or "none yet",
            escape(each["model"]),
            ": ".join(filter(None, each["vector_index"].values())),
            ", ".join(filter(None, [filling, *each["replaced"]])),
        )
    out.print(table)
    for each in found:
        if each["misplaced"]:
            errors.print(
                f"[yellow]{each['name']}[/yellow]: documents of "
                f"{escape(', '.join(each['misplaced']))} are not looked for here "
                "(retrieval.tenancy): ingest them again, then remove them with "
                "`trivium collections delete --tenant`",
                soft_wrap=True,
            )


@collections.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which collections; all without one.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is wrong.")] = False,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Compare every chunk in Milvus with the registry of documents, and mend what does not agree.

    Searches and writes go on meanwhile. The exit code is 1 when something is wrong, or, after
    [bold]--repair[/bold], when a document had to be given up: it has to be ingested again.

    [bold]Example:[/bold] trivium collections check default --repair
    """
    settings = load(config).resolved(Path.cwd())

    async def work(base: Base) -> list[dict[str, Any]]:
        parts = opened(base, settings.retrieval)
        wanted = names or await base.registry.collections.names()
        return [(await parts.check.check(name, repair=repair)).record() for name in wanted]

    found = with_base(settings, work)
    if as_json:
        print(json.dumps(found))
    else:
        for each in found:
            _show(each, repair=repair)
    if any(each["lost"] or not (each["sound"] or repair) for each in found):
        raise typer.Exit(1)


@collections.command()
def delete(
    name: Name,
    tenant: Annotated[
        str | None, typer.Option(help="Remove this tenant's documents alone; the collection stays.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Remove a collection with all its indexes and the documents of all tenants, for good.

    [bold]Example:[/bold] trivium collections delete trial --yes
    """
    settings = load(config).resolved(Path.cwd())
    whose = "all tenants" if tenant is None else tenant
    if not yes:
        what = f"{name} and all its documents" if tenant is None else f"all documents in {name}"
        typer.confirm(f"Remove {what}, of {whose}?", abort=True, err=True)

    async def work(base: Base) -> dict[str, Any]:
        found = await _described(base, name, settings.retrieval.tenancy)
        if tenant is not None:
            count = await _erased(base, name, tenant)
            return {"name": name, "deleted": False, "documents": count}
        await opened(base, settings.retrieval).catalogue.remove(name)
        return {"name": name, "deleted": True, "documents": found["documents"].get("in", 0)}

    done = with_base(settings, work)
    if as_json:
        print(json.dumps(done))
    elif tenant is None:
        out.print(f"{name} is gone, with {_count(done['documents'])} documents")
    else:
        out.print(f"{_count(done['documents'])} documents of {escape(whose)} are gone from {name}")


@collections.command()
def prune(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which collections; all without one.")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Drop indexes that others replaced longer ago than retrieval.keep_replaced_s.

    A reindex does the same when it is done. What is in force or being filled stays.

    [bold]Example:[/bold] trivium collections prune
    """
    settings = load(config).resolved(Path.cwd())

    async def work(base: Base) -> dict[str, list[str]]:
        catalogue = opened(base, settings.retrieval).catalogue
        grace = settings.retrieval.keep_replaced_s
        wanted = names or await base.registry.collections.names()
        return {name: await catalogue.prune(name, grace) for name in wanted}

    done = with_base(settings, work)
    if as_json:
        print(json.dumps(done))
        return
    dropped = [index for indexes in done.values() for index in indexes]
    out.print(f"dropped {', '.join(dropped)}" if dropped else "there is nothing to drop")


async def _erased(base: Base, name: str, tenant: str) -> int:
    """Remove a tenant's documents; returns how many."""
    from serve_app.retrieval.writing import Writer

    documents, removed = base.registry.documents, 0
    while page := await documents.page(name, tenant, limit=_ERASED):
        await Writer(base.store, base.registry).delete(name, [each.facts for each in page])
        removed += len(page)
    return removed


async def _described(base: Base, name: str, tenancy: Tenancy) -> dict[str, Any]:
    found = await base.registry.collections.get(name)
    if found is None:
        raise NotFound(f"there is no collection {name!r}: see `trivium collections list`")
    index = found.in_force
    _, chunks = await base.registry.documents.sizes(index.name) if index else (0, 0)
    tenants = await base.registry.documents.tenants(name)
    return {
        "name": name,
        "owner": found.owner,
        "index": index and index.name,
        "model": index.model if index else "",
        "chunk_tokens": index and index.chunk_tokens,
        "vector_index": {
            "type": index.vectors if index else "",
            "reason": index.reason if index else "",
        },
        "filling": found.filling and found.filling.name,
        "paused": found.paused,
        "replaced": [each.name for each in found.retired],
        "documents": await base.registry.documents.states(name),
        "chunks": chunks,
        "misplaced": sorted(each for each in tenants if not tenancy.belongs(name, each)),
    }


def _show(report: Mapping[str, Any], *, repair: bool) -> None:
    name, rows = report["collection"], sum(report["rows"].values())
    if report["sound"]:
        out.print(f"[green]{name}[/green]: all of {_count(rows)} rows are as they should be")
        return
    counts = ", ".join(f"{_count(n)} {kind}" for kind, n in sorted(report["counts"].items()))
    what = "mended" if repair else "wrong"
    out.print(f"[yellow]{name}[/yellow]: {what}: {counts}, in {_count(rows)} rows")
    for each in report["findings"][:_NAMED]:
        document = f" {each['tenant']}/{each['document']}" if each["tenant"] else ""
        errors.print(f"  {each['kind']}{escape(document)} {each['index']}", soft_wrap=True)
    for each in report["lost"]:
        errors.print(f"[red]lost[/red] {escape(each)}: ingest it again", soft_wrap=True)


def _count(number: int) -> str:
    return f"{number:,}"
