"""`trivium ingest` and `trivium search`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from serve_app.cli.client import DEFAULT_URL, Client, Json, Key, Url
from serve_app.cli.console import errors, out
from serve_app.errors import TriviumError
from serve_app.retrieval.documents import discover, read

Collection = Annotated[str, typer.Option("--collection", "-c", help="Which knowledge base.")]

_BATCH = 16


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Markdown or text files, or folders.")],
    collection: Collection = "default",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check the files, send nothing.")
    ] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Put documents into a knowledge base; those with the same id are replaced.

    A file that cannot be read is named and skipped; the exit code is then 1.

    [bold]Example:[/bold] trivium ingest configs/demo/handbook
    """
    files = discover(paths)
    documents: list[dict[str, Any]] = []
    failed: list[str] = []
    for path in files:
        try:
            document = read(path)
        except TriviumError as error:
            failed.append(error.message)
            errors.print(f"[yellow]skipped[/yellow] {escape(error.message)}")
            continue
        documents.append(
            {
                "id": document.id,
                "title": document.title,
                "text": document.text,
                "metadata": dict(document.metadata),
            }
        )
    chunks = 0 if dry_run else send(documents, collection, url, api_key)
    report = {
        "collection": collection,
        "documents": len(documents),
        "chunks": chunks,
        "failed": failed,
        "dry_run": dry_run,
    }
    if as_json:
        print(json.dumps(report))
    else:
        done = "would be sent" if dry_run else f"ingested as {chunks} chunks"
        out.print(f"{len(documents)} documents {done} in [bold]{collection}[/bold]")
    if failed:
        raise typer.Exit(1)


def send(documents: list[dict[str, Any]], collection: str, url: str, api_key: str | None) -> int:
    """Send documents in batches, with a progress bar; returns the number of chunks."""
    chunks = 0
    columns = (
        TextColumn("ingesting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with (
        Client(url, api_key) as client,
        Progress(*columns, console=errors, transient=True) as progress,
    ):
        task = progress.add_task("ingest", total=len(documents))
        for start in range(0, len(documents), _BATCH):
            batch = documents[start : start + _BATCH]
            report = client.request(
                "PUT", f"/v1/collections/{collection}/documents", {"documents": batch}
            )
            chunks += report["chunks"]
            progress.advance(task, len(batch))
    return chunks


def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    collection: Collection = "default",
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=50, help="How many chunks.")] = 5,
    mode: Annotated[str, typer.Option(help="dense, sparse (BM25) or hybrid.")] = "hybrid",
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Show what retrieval finds for a query, best first."""
    body = {"query": query, "k": k, "mode": mode}
    with Client(url, api_key) as client:
        found = client.request("POST", f"/v1/collections/{collection}/search", body)["data"]
    if as_json:
        print(json.dumps(found))
        return
    table = Table("#", "cosine", "document", "text")
    for rank, hit in enumerate(found, start=1):
        where = f"{escape(hit['document_id'])}\n[dim]{escape(hit['heading'])}[/dim]"
        text = escape(textwrap.shorten(hit["text"], 240))
        table.add_row(str(rank), f"{hit['relevance']:.2f}", where, text)
    out.print(table)
