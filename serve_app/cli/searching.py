"""`trivium search`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from serve_app.cli.client import DEFAULT_URL, Client, Json, Key, Url
from serve_app.cli.console import errors, out
from serve_app.cli.documents import Collection
from serve_app.errors import SettingsError
from serve_app.jsonl import objects

_WANTED = '{"id","query"}'


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
            rows = _read(queries)
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


def _read(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, row in objects(path, _WANTED):
        if not isinstance(row.get("query"), str) or "id" not in row:
            raise SettingsError(f"{path}:{number}: not a row of {_WANTED}")
        rows.append({"id": row["id"], "query": row["query"]})
    return rows
