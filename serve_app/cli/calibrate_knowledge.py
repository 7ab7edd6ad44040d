"""`trivium calibrate knowledge`: what the cosines of an embedding model mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from serve_app import models
from serve_app.cli.client import DEFAULT_URL, Client, Json, Key, Url
from serve_app.cli.console import Bars, errors, out
from serve_app.cli.documents import Collection, Config
from serve_app.cli.layers import DEFAULT_CONFIG
from serve_app.domain import Chunk
from serve_app.errors import SettingsError
from serve_app.settings import load


def calibrate_knowledge(
    questions: Annotated[
        Path,
        typer.Option(
            "--questions",
            "-q",
            help="JSONL: query, relevant (ids of documents that answer it; none: []) and, where "
            "they are known, answers (their words).",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the calibration goes (.yaml).")
    ],
    collection: Collection = "default",
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=50, help="Chunks of a search.")] = 4,
    config: Config = DEFAULT_CONFIG,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Fit how the rules of the knowledge road read cosines, on questions about your documents.

    The questions are searched for in a running stack. Embedding models differ in what is near: with
    another one than the one that comes along, fit this, and set [bold]orchestration.calibration
    [/bold] to the file. A hundred questions are enough; a third of them should be such that the
    documents do not answer.

    [bold]Example:[/bold] trivium calibrate knowledge -q questions.jsonl -o calibration.yaml
    """
    from transformers.utils import logging

    from serve_app.evaluation import cosines
    from serve_app.retrieval.embedder import EmbeddingModels, loading

    logging.disable_progress_bar()
    asked = cosines.read(questions)
    if output.is_dir() or not output.parent.is_dir():
        raise SettingsError(f"{output}: name a file in a folder that is there")
    settings = load(config if config.is_file() else None).resolved(Path.cwd()).retrieval
    name = settings.embedding_name
    with errors.status("loading the embedding model"), loading(name):
        model = EmbeddingModels(name, models.embedding_models(), settings.embedding).model(name)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Client(url, api_key) as client, Bars(*columns, TimeRemainingColumn()) as bars:
        task = bars.add_task("searching", total=len(asked))

        def search(query: str) -> Sequence[Chunk]:
            body = {"query": query, "k": k}
            data = client.request("POST", f"/v1/collections/{collection}/search", body)["data"]
            return [_chunk(each) for each in data]

        fitted = cosines.fit(
            asked, search, model.beside, questions.name, lambda: bars.advance(task)
        )
    output.write_text(yaml.safe_dump(cosines.plain(fitted, name)), encoding="utf-8")
    figures: dict[str, Any] = {
        "questions": fitted.questions,
        "quoted_right": round(fitted.right, 3),
        "chunk_calibration_error": round(fitted.chunk_error, 3),
        "quotation_calibration_error": round(fitted.statement_error, 3),
    }
    if as_json:
        print(json.dumps({"output": str(output), "model": name, **figures}))
        return
    out.print(
        f"{output}: {name}, from {fitted.questions} questions. Of those left out of a first fit "
        f"{fitted.right:.0%} are quoted right where the answer was found; probabilities are off by "
        f"{fitted.chunk_error:.3f} (chunks) and {fitted.statement_error:.3f} (quotations). Set "
        "orchestration.calibration to it, then [bold]trivium reload[/bold]"
    )


def _chunk(hit: dict[str, Any]) -> Chunk:
    names = ("id", "document_id", "title", "heading", "text", "as_of", "relevance")
    return Chunk(**{name: hit[name] for name in names})
