"""`trivium ingest` and `trivium reindex`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from serve_app import models
from serve_app.cli import following, sending
from serve_app.cli.bulk import Bar, Start, embedding_model, with_store
from serve_app.cli.client import DEFAULT_URL, Json, Key
from serve_app.cli.console import errors, out
from serve_app.errors import Unavailable
from serve_app.ledger.prices import PriceTable
from serve_app.retrieval.index import IngestReport
from serve_app.retrieval.sources import discover
from serve_app.settings import load

if TYPE_CHECKING:
    from serve_app.retrieval.pipeline import Result
    from serve_app.retrieval.port import Port

Collection = Annotated[str, typer.Option("--collection", "-c", help="Which knowledge base.")]
Config = Annotated[Path, typer.Option("--config", "-f", help="Settings file (YAML).")]
_LOCAL = Path("configs/local.yaml")


def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(help="Files, folders, globs or fsspec URLs; with --follow, a file or -."),
    ],
    collection: Collection = "default",
    tenant: Annotated[
        str, typer.Option(help="Whose documents they are; over HTTP the API key says it.")
    ] = "default",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be embedded and removed, do nothing.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Go on reading JSONL rows as they are added, over HTTP."),
    ] = False,
    config: Config = _LOCAL,
    as_json: Json = False,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="TRIVIUM_URL",
            help="Send them over HTTP instead; the server embeds.",
            rich_help_panel="Connection",
        ),
    ] = None,
    api_key: Key = None,
) -> None:
    """Bring a knowledge base up to date with files: only what changed is embedded again.

    Reads Markdown, text, HTML, PDF, DOCX, CSV and JSONL with Ray Data, in the running stack's
    cluster or in one of its own, and writes to the Milvus of the settings. Documents that an
    earlier run read from the same folder or glob and that are gone are removed. A run that was
    interrupted is finished by the same command.

    A file that cannot be read is named and skipped; the exit code is then 1. What is left out of
    one that was read, as pictures and hidden text, is named and counted.

    [bold]Example:[/bold] trivium ingest configs/demo/handbook --dry-run
    """
    if follow:
        following.send(paths, collection, url or DEFAULT_URL, api_key, as_json)
        return
    if url is not None:
        done = Done(*sending.send(paths, collection, url, api_key, dry_run=dry_run))
        if dry_run and not as_json:
            out.print(f"{done.report.documents} documents would be sent to {url}")
            raise typer.Exit(1 if done.problems else 0)
    else:
        done = _bulk(paths, collection, tenant, config, dry_run)
    _show(done, collection, dry_run, as_json)
    if done.problems:
        raise typer.Exit(1)


def reindex(
    collection: Collection = "default",
    model_name: Annotated[
        str | None,
        typer.Option(
            "--embedding-model", help="Name, folder or hub id; default: that of the settings."
        ),
    ] = None,
    chunk_tokens: Annotated[
        int | None, typer.Option(min=32, help="Bound of a chunk; default: that of the settings.")
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Put the index before this one in force again.")
    ] = False,
    config: Config = _LOCAL,
    as_json: Json = False,
) -> None:
    """Change a knowledge base's embedding model or chunk size while it is searched.

    A new index is filled beside the old one and then put in force; the old one stays for
    [bold]--rollback[/bold].

    [bold]Example:[/bold] trivium reindex --chunk-tokens 96
    """
    from serve_app.retrieval import pipeline

    settings = load(config).resolved(Path.cwd())
    model = embedding_model(settings.retrieval, model_name)
    size = chunk_tokens or settings.retrieval.chunk_tokens

    async def run(store: Port, start: Start, bar: Bar) -> dict[str, Any]:
        if rollback:
            return {
                "collection": collection,
                "index": (await pipeline.rollback(store, collection)).name,
            }
        made, result = await pipeline.reindex(
            store, collection, model, size, start=start, on_progress=bar
        )
        report = dataclasses.asdict(result.report)
        return {"collection": collection, "index": made.name, "seconds": result.seconds, **report}

    done = with_store(settings, run)
    if as_json:
        print(json.dumps(done))
    else:
        out.print(f"[bold]{collection}[/bold] is served by {done['index']} now")


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What an ingest did; see `pipeline.Result`.

    Attributes:
        usd_per_token: What embedding costs; None if the server embedded, or no price is listed.
    """

    report: IngestReport
    problems: list[str]
    left_out: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    usd_per_token: float | None = None

    def usd(self, tokens: int) -> float | None:
        """Dollars for embedding so many tokens."""
        return None if self.usd_per_token is None else tokens * self.usd_per_token


def _bulk(paths: list[str], collection: str, tenant: str, config: Path, dry_run: bool) -> Done:
    from serve_app.retrieval import pipeline

    settings = load(config).resolved(Path.cwd())
    files = discover(paths)

    async def run(store: Port, start: Start, bar: Bar) -> Result:
        return await pipeline.ingest(
            files,
            store,
            collection,
            tenant,
            embedding_model(settings.retrieval),
            settings.retrieval.chunk_tokens,
            paths=models.embedding_models(),
            start=start,
            dry_run=dry_run,
            on_progress=bar,
        )

    prices = PriceTable.load(settings.ledger.prices)
    try:
        result = with_store(settings, run)
    except Unavailable as error:
        if not dry_run:
            error.add_note("What was written stays; the same command finishes the run.")
        raise
    price = prices.get(result.model)
    usd_per_token = price.input / 1e6 if price else None
    return Done(result.report, result.problems, result.left_out, result.seconds, usd_per_token)


def _show(done: Done, collection: str, dry_run: bool, as_json: bool) -> None:
    report = done.report
    spent, saved = done.usd(report.embedded_tokens), done.usd(report.saved_tokens)
    for problem in done.problems:
        errors.print(f"[yellow]skipped[/yellow] {escape(problem)}")
    for losses in done.left_out:
        errors.print(f"[dim]{escape(losses)}[/dim]")
    if as_json:
        record = dataclasses.asdict(report)
        print(
            json.dumps(
                {
                    "collection": collection,
                    **record,
                    "embedding_usd": spent,
                    "saved_usd": saved,
                    "failed": done.problems,
                    "left_out": done.left_out,
                    "dry_run": dry_run,
                    "seconds": round(done.seconds, 2),
                }
            )
        )
        return
    would = "would be " if dry_run else ""
    out.print(
        f"{report.documents} documents, {report.chunks} chunks in [bold]{collection}[/bold]: "
        f"{report.embedded} {would}embedded ({report.embedded_tokens:,} tokens{_money(spent)}), "
        f"{report.removed} {would}removed; "
        f"{report.saved_tokens:,} tokens{_money(saved)} needed no embedding"
    )


def _money(usd: float | None) -> str:
    return "" if usd is None else f", ${usd:.6f}"
