"""`trivium ingest` and `trivium reindex`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.markup import escape

from serve_app import models
from serve_app.cli import following, sending
from serve_app.cli.bulk import Base, embedding_model, opened, with_base
from serve_app.cli.client import DEFAULT_URL, Json, Key
from serve_app.cli.console import errors, out
from serve_app.errors import SettingsError, Unavailable
from serve_app.ledger.prices import PriceTable
from serve_app.retrieval.embedder import Tokens, check_window, dimension
from serve_app.retrieval.index import IngestReport
from serve_app.retrieval.sources import File, discover, listed
from serve_app.settings import load

if TYPE_CHECKING:
    from serve_app.retrieval.bulk import Result

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
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Read every file and compare its content, whatever its time says."
        ),
    ] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Go on reading JSONL rows as they are added, over HTTP."),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            help="What the files are known by from run to run, where they lie elsewhere each time; "
            "default: the path itself."
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP",
            help="For this group alone; may be given several times. Documents that name groups "
            "themselves keep those.",
        ),
    ] = None,
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
    """Bring a knowledge base up to date with files: only what changed is read and embedded again.

    Reads Markdown, text, HTML, PDF, DOCX, CSV and JSONL with Ray Data, in the running stack's
    cluster or in one of its own, and writes to the Milvus of the settings. A file whose size and
    time (or etag) are what they were is not read; [bold]--verify[/bold] reads it all the same. A
    document's id is its path below the folder, as hr/README, unless it names one itself. Documents
    that an earlier run read from the same folder or glob and that are gone are removed. A run that
    was interrupted is finished by the same command. Over HTTP it does
    the same, and sends all files.

    A file that cannot be read, or whose id another one has, is named and skipped; the exit code is
    then 1, and nothing is removed. What is left out of one that was read, as pictures and hidden
    text, is named and counted.

    [bold]Example:[/bold] trivium ingest configs/demo/handbook --dry-run
    """
    if follow:
        following.send(paths, collection, url or DEFAULT_URL, api_key, as_json)
        return
    if url is not None:
        files = discover(paths, source, allow or ())
        done = Done(*sending.send(files, collection, url, api_key, dry_run=dry_run))
        if dry_run and not as_json:
            _show_lines(done)
            gone = f", {done.report.removed} chunks would be removed" if done.report.removed else ""
            out.print(f"{done.report.documents} documents would be sent to {url}{gone}")
            raise typer.Exit(1 if done.problems else 0)
    else:
        found = listed(paths, source, allow or ())
        done = bulk(found, collection, tenant, config, verify=verify, dry_run=dry_run)
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
    pause: Annotated[
        bool, typer.Option("--pause", help="Tell a run that is under way to wait.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Tell a run that was told to wait to go on.")
    ] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="Stop a run; searches go on with the old index.")
    ] = False,
    config: Config = _LOCAL,
    as_json: Json = False,
) -> None:
    """Change a knowledge base's embedding model or chunk size while it is searched and written.

    A new index is filled beside the old one and then put in force. What is written or deleted
    meanwhile is, in both. A run that was interrupted is finished by the same command. The old index
    stays for [bold]--rollback[/bold], which brings it up to date first, as long as
    retrieval.keep_replaced_s says.

    [bold]Example:[/bold] trivium reindex --chunk-tokens 96
    """
    if rollback + pause + resume + abort > 1:
        raise SettingsError("give one of --rollback, --pause, --resume and --abort")
    settings = load(config).resolved(Path.cwd())
    name = model_name or settings.retrieval.embedding_name
    model = embedding_model(name)
    size = chunk_tokens or settings.retrieval.chunk_tokens

    async def run(base: Base) -> dict[str, Any]:
        told = base.registry.collections
        if pause or resume:
            await told.pause(collection, paused=pause)
            return {"collection": collection, "paused": pause}
        parts = opened(base, settings.retrieval)
        if abort:
            stopped = await parts.reindexing.abort(collection)
            return {"collection": collection, "aborted": stopped.name}
        started = time.monotonic()
        if not rollback:
            window = model.window(await asyncio.to_thread(Tokens, model.files))
            check_window(size, name, window)
        if rollback:
            made, done = await parts.reindexing.rollback(collection, base.bar)
        else:
            made, done = await parts.reindexing.reindex(
                collection,
                name,
                await asyncio.to_thread(dimension, model),
                size,
                base.bar,
            )
        dropped = await parts.catalogue.prune(collection, settings.retrieval.keep_replaced_s)
        report = {name: getattr(done, name) for name in ("documents", "chunks", "embedded")}
        seconds = round(time.monotonic() - started, 2)
        return {
            "collection": collection,
            "index": made.name,
            "seconds": seconds,
            **report,
            "embedded_tokens": done.tokens,
            "dropped": dropped,
        }

    done = with_base(settings, run)
    if as_json:
        print(json.dumps(done))
    elif "index" in done:
        out.print(f"[bold]{collection}[/bold] is served by {done['index']} now")
    elif abort:
        out.print(f"{done['aborted']} is filled no further")
    else:
        out.print("it waits" if pause else "it goes on")


class Lines(Sized, Iterable[str], Protocol):
    """Lines; of a bulk run they may be too many for memory."""


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What an ingest did; see `retrieval.bulk.Result`.

    Attributes:
        usd_per_token: What embedding costs; None if the server embedded, or no price is listed.
    """

    report: IngestReport
    problems: Lines
    left_out: Lines = ()
    seconds: float = 0.0
    files: int = 0
    read: int = 0
    usd_per_token: float | None = None

    def usd(self, tokens: int) -> float | None:
        """Dollars for embedding so many tokens."""
        return None if self.usd_per_token is None else tokens * self.usd_per_token


def bulk(
    files: Iterable[File],
    collection: str,
    tenant: str,
    config: Path,
    *,
    verify: bool = False,
    dry_run: bool = False,
) -> Done:
    """Bring the knowledge base of the settings up to date with files, from here."""
    from serve_app.retrieval import bulk

    settings = load(config).resolved(Path.cwd())

    async def run(base: Base) -> Result:
        return await bulk.ingest(
            files,
            base.store,
            base.registry,
            collection,
            tenant,
            settings,
            paths=models.embedding_models(),
            start=base.start,
            verify=verify,
            dry_run=dry_run,
            on_progress=base.bar.read,
        )

    prices = PriceTable.load(settings.ledger.prices)
    try:
        result = with_base(settings, run)
    except Unavailable as error:
        if not dry_run:
            error.add_note("What was written stays; the same command finishes the run.")
        raise
    price = prices.get(result.model)
    usd_per_token = price.input / 1e6 if price else None
    return Done(
        result.report,
        result.problems,
        result.left_out,
        result.seconds,
        result.files,
        result.read,
        usd_per_token,
    )


def _show(done: Done, collection: str, dry_run: bool, as_json: bool) -> None:
    report = done.report
    spent, saved = done.usd(report.embedded_tokens), done.usd(report.saved_tokens)
    _show_lines(done)
    if as_json:
        record = {
            "collection": collection,
            **dataclasses.asdict(report),
            "files": done.files,
            "read": done.read,
            "embedding_usd": spent,
            "saved_usd": saved,
            "dry_run": dry_run,
            "seconds": round(done.seconds, 2),
        }
        _print_with(record, {"failed": done.problems, "left_out": done.left_out})
        return
    would = "would be " if dry_run else ""
    out.print(
        f"{report.documents} documents, {report.chunks} chunks in [bold]{collection}[/bold]: "
        f"{report.embedded} {would}embedded ({report.embedded_tokens:,} tokens{_money(spent)}), "
        f"{report.removed} {would}removed; "
        f"{report.saved_tokens:,} tokens{_money(saved)} needed no embedding"
    )


def _show_lines(done: Done) -> None:
    for problem in done.problems:
        errors.print(f"[yellow]skipped[/yellow] {escape(problem)}")
    for losses in done.left_out:
        errors.print(f"[dim]{escape(losses)}[/dim]")


def _print_with(record: dict[str, Any], lists: Mapping[str, Lines]) -> None:
    """A record as JSON, with lists that need not fit into memory."""
    print(json.dumps(record)[:-1], end="")
    for name, lines in lists.items():
        print(f", {json.dumps(name)}: [", end="")
        for number, line in enumerate(lines):
            print(", " if number else "", json.dumps(line), sep="", end="")
        print("]", end="")
    print("}")


def _money(usd: float | None) -> str:
    return "" if usd is None else f", ${usd:.6f}"
