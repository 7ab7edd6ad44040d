"""`trivium generate`: a file of conversations answered by the small model, offline."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.client import Json
from serve_app.cli.console import Bars, out
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.cli.tuning import base_of
from serve_app.errors import SettingsError
from serve_app.settings import Settings, load

if TYPE_CHECKING:
    from serve_app.expert import batch


def generate(
    input_: Annotated[
        Path, typer.Option("--input", "-i", help='Rows to answer, JSONL: {"id","messages"}.')
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the answers go, JSONL; appended to.")
    ],
    adapter: Annotated[
        Path | None,
        typer.Option(help="What `trivium train expert` wrote; default: the base alone."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Folder or hub id; default: the expert's own model.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer; default: expert.max_output_tokens.")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Answer a whole file on vLLM in this process, with an adapter or without; greedy decoding.

    Writes {"id","text","finish_reason","prompt_tokens","completion_tokens","seconds"}. A run that
    was killed goes on: ids that the output has already are skipped.

    [bold]Example:[/bold] trivium generate --adapter adapters/house -i asked.jsonl -o made.jsonl
    """
    from serve_app.expert import batch

    settings = load(config if config.is_file() else None).resolved(Path.cwd())
    requests = batch.read_requests(input_)
    if not output.parent.is_dir():
        raise SettingsError(f"{output.parent}: there is no such folder to write {output.name} to")
    done = batch.answered(output)
    left = [each for each in requests if each.id not in done]
    started, tokens = time.monotonic(), 0
    if left:
        size = max_tokens or settings.expert.max_output_tokens
        with Bars() as progress:
            task = progress.add_task("starting vLLM", total=len(left))
            engine = open_engine(settings, base, adapter, left, size)
            for answers in engine.answers(left, size, adapted=adapter is not None):
                batch.write(output, answers)
                tokens += sum(each.completion_tokens for each in answers)
                progress.update(task, description="answering", advance=len(answers))
    seconds = round(time.monotonic() - started, 1)
    counted = {"rows": len(left), "skipped": len(requests) - len(left)}
    if as_json:
        result = {"output": str(output), **counted, "completion_tokens": tokens}
        print(json.dumps({**result, "seconds": seconds}))
        return
    out.print(
        f"{output}: {counted['rows']} rows answered ({tokens:,} tokens) in {seconds} s, "
        f"{counted['skipped']} were there already"
    )


def open_engine(
    settings: Settings,
    base: str | None,
    adapter: Path | None,
    requests: Sequence[batch.Request],
    max_tokens: int,
) -> batch.Engine:
    """vLLM in this process, once it is clear that it can take the requests.

    Raises:
        SettingsError: A request is too long, or the adapter cannot be used.
    """
    from serve_app.expert.batch import Engine, refuse_long
    from serve_app.expert.deployment import environment

    model = base_of(settings, base)
    refuse_long(requests, model, settings.expert, max_tokens)
    # vLLM reads these when it is imported; with one process there is nothing to leave behind.
    os.environ.update(environment(settings.expert))
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    return Engine(model, adapter, settings.expert)
