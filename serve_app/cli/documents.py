"""`trivium ingest`, `trivium reindex` and `trivium search`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from rich.table import Table

from serve_app import models
from serve_app.cli import following, local
from serve_app.cli.client import DEFAULT_URL, Client, Json, Key, Url
from serve_app.cli.console import errors, out
from serve_app.errors import SettingsError, TriviumError, Unavailable
from serve_app.ledger.prices import PriceTable
from serve_app.retrieval import formats
from serve_app.retrieval.index import IngestReport
from serve_app.retrieval.sources import discover
from serve_app.settings import Settings, load

Collection = Annotated[str, typer.Option("--collection", "-c", help="Which knowledge base.")]
Config = Annotated[Path, typer.Option("--config", "-f", help="Settings file (YAML).")]
Start = Callable[[], None]
_LOCAL = Path("configs/local.yaml")
_BATCH = 16


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

    A file that cannot be read is named and skipped; the exit code is then 1.

    [bold]Example:[/bold] trivium ingest configs/demo/handbook --dry-run
    """
    if follow:
        following.send(paths, collection, url or DEFAULT_URL, api_key, as_json)
        return
    if url is not None:
        done = Done(*send(paths, collection, url, api_key, dry_run=dry_run))
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
    embedding_model: Annotated[
        str | None, typer.Option(help="Name, folder or hub id; default: that of the settings.")
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
    model = _model(settings, embedding_model)
    size = chunk_tokens or settings.retrieval.chunk_tokens

    async def run(store: pipeline.Port, start: Start, bar: Bar) -> dict[str, Any]:
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


class Bar:
    """A progress bar that appears when there is something to embed."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._started = 0.0

    def __call__(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task("embedding", total=total, rate="")
            self._started = time.monotonic()
            return
        rate = f"{done / (time.monotonic() - self._started):.0f} chunks/s"
        self._progress.update(self._task, completed=done, total=total, rate=rate)


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What an ingest did; see `pipeline.Result`.

    Attributes:
        usd_per_token: What embedding costs; None if the server embedded, or no price is listed.
    """

    report: IngestReport
    problems: list[str]
    seconds: float = 0.0
    usd_per_token: float | None = None

    def usd(self, tokens: int) -> float | None:
        """Dollars for embedding so many tokens."""
        return None if self.usd_per_token is None else tokens * self.usd_per_token


def _bulk(paths: list[str], collection: str, tenant: str, config: Path, dry_run: bool) -> Done:
    from serve_app.retrieval import pipeline

    settings = load(config).resolved(Path.cwd())
    files = discover(paths)

    async def run(store: pipeline.Port, start: Start, bar: Bar) -> pipeline.Result:
        return await pipeline.ingest(
            files,
            store,
            collection,
            tenant,
            _model(settings, None),
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
    return Done(result.report, result.problems, result.seconds, usd_per_token)


def with_store(settings: Settings, run: Any) -> Any:
    """Run something on the store: the running stack's if it owns one, else opened here."""
    retrieval = settings.retrieval
    for name in ("pymilvus", "milvus_lite"):
        # They log tracebacks of errors that are raised too, and said in a sentence.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with contextlib.ExitStack() as driver:
        joined: list[bool] = []

        def start() -> None:
            if not joined:
                joined.append(driver.enter_context(local.joined(settings)))

        owner = local.RunFile.of(settings).addresses() if retrieval.embedded else None

        async def on_store() -> Any:
            with Progress(*columns, console=errors, transient=True) as progress:
                if owner:
                    start()
                    from ray import serve

                    from serve_app.retrieval.pipeline import RemoteStore

                    handle = serve.get_deployment_handle("Retriever", "trivium")
                    return await run(RemoteStore(handle), start, Bar(progress))
                from serve_app.retrieval.store import MilvusStore

                token = retrieval.milvus_token.get_secret_value()
                store = MilvusStore(retrieval.milvus_uri, token, retrieval.timeout_s)
                try:
                    return await run(store, start, Bar(progress))
                finally:
                    await store.close()

        return asyncio.run(on_store())


def _model(settings: Settings, name: str | None) -> Any:
    from serve_app.retrieval.stages import Model

    chosen = name or settings.retrieval.embedding_model
    return Model(chosen, models.embedding_models().get(chosen, chosen))


def _show(done: Done, collection: str, dry_run: bool, as_json: bool) -> None:
    report = done.report
    spent, saved = done.usd(report.embedded_tokens), done.usd(report.saved_tokens)
    for problem in done.problems:
        errors.print(f"[yellow]skipped[/yellow] {escape(problem)}")
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


def send(
    paths: list[str],
    collection: str,
    url: str,
    api_key: str | None = None,
    *,
    dry_run: bool = False,
) -> tuple[IngestReport, list[str]]:
    """Read files here and send their documents over HTTP, with a progress bar."""
    documents: list[dict[str, Any]] = []
    problems: list[str] = []
    for file in discover(paths):
        try:
            reading = formats.read(file.url, file.read())
        except TriviumError as error:
            problems.append(error.message)
            continue
        problems += reading.problems
        documents += [
            {"id": d.id, "title": d.title, "text": d.text, "metadata": dict(d.metadata)}
            for d in reading.documents
        ]
    done = IngestReport(len(documents), 0)
    if dry_run:
        return done, problems
    batches = [documents[start : start + _BATCH] for start in range(0, len(documents), _BATCH)]
    with Client(url, api_key) as client:
        for batch in track(batches, "ingesting", console=errors, transient=True):
            answer = client.request(
                "PUT", f"/v1/collections/{collection}/documents", {"documents": batch}
            )
            done = dataclasses.replace(
                done,
                **{
                    field.name: getattr(done, field.name) + answer[field.name]
                    for field in dataclasses.fields(IngestReport)
                    if field.name != "documents"
                },
            )
    return done, problems


def search(
    query: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    queries: Annotated[
        Path | None, typer.Option(help='Many of them, JSONL: {"id","query"}; with --output.')
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help='Where the run goes, JSONL: {"id","query","results"}.')
    ] = None,
    collection: Collection = "default",
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=50, help="How many chunks.")] = 5,
    mode: Annotated[str, typer.Option(help="dense, sparse (BM25) or hybrid.")] = "hybrid",
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Show what retrieval finds for a query, best first; or for a whole file of them.

    [bold]Example:[/bold] trivium search --queries q.jsonl --k 20 --output run.jsonl
    """
    if (query is None) == (queries is None) or (queries is None) != (output is None):
        raise SettingsError("give a query, or --queries FILE and --output FILE")
    path = f"/v1/collections/{collection}/search"
    with Client(url, api_key) as client:
        if queries and output:
            rows = _queries(queries)
            with output.open("w", encoding="utf-8") as file:
                for row in track(rows, "searching", console=errors, transient=True):
                    body = {"query": row["query"], "k": k, "mode": mode}
                    results = client.request("POST", path, body)["data"]
                    file.write(json.dumps({**row, "results": results}) + "\n")
            out.print(f"{len(rows)} queries searched: {output}")
            return
        found = client.request("POST", path, {"query": query, "k": k, "mode": mode})["data"]
    if as_json:
        print(json.dumps(found))
        return
    table = Table("#", "cosine", "document", "text")
    for rank, hit in enumerate(found, start=1):
        where = f"{escape(hit['document_id'])}\n[dim]{escape(hit['heading'])}[/dim]"
        text = escape(textwrap.shorten(hit["text"], 240))
        table.add_row(str(rank), f"{hit['relevance']:.2f}", where, text)
    out.print(table)


def _queries(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({"id": row["id"], "query": str(row["query"])})
        except (ValueError, KeyError, TypeError):
            raise SettingsError(f'{path}:{number}: not a row of {{"id", "query"}}') from None
    return rows
