"""`trivium train …`: the parts of the stack that learn."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from serve_app import models
from serve_app.cli import steps
from serve_app.cli.bases import of_files
from serve_app.cli.client import Json
from serve_app.cli.console import errors, out
from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.router.coverage import Coverage
from serve_app.router.fetching import fetch
from serve_app.router.heads import OUT_OF_SCOPE, SHIPPED, Heads
from serve_app.router.rows import Row, read_rows
from serve_app.router.semantic import SemanticRouter
from serve_app.settings import Settings, load

train = typer.Typer(
    help="Train a part of the stack on labelled data.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Config = Annotated[Path, typer.Option("--config", "-c", help="Settings file (YAML).")]
DEFAULT_CONFIG = Path("configs/local.yaml")


@train.callback()
def _group() -> None:
    """Without a callback Typer would take a group of one command for that command."""


@train.command("router")
def train_router(
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            "-d",
            help="Labelled rows, JSONL: query or messages, and any of route, intent, volatile, "
            "complex, weak_correct + strong_correct. Repeat for more files.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the heads go (.safetensors).")
    ],
    base: Annotated[
        Path | None,
        typer.Option(help="Heads to keep where no row has a label; default: the shipped ones."),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Keep nothing: every head needs rows.")
    ] = False,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Fit the router's heads to labelled rows. Seconds to a few minutes, on the CPU.

    A head is trained when rows carry its label and kept as it is otherwise. A running stack takes
    the new file with [bold]trivium reload[/bold], without dropping a request.

    [bold]Example:[/bold] trivium train router -d configs/demo/routes.jsonl -o heads.safetensors
    """
    from serve_app.router import training

    rows = [row for path in data for row in read_rows(path)]
    settings = load(config if config.is_file() else None).resolved(Path.cwd())
    kept = None if from_scratch else Heads.load(base or SHIPPED)
    if output.is_dir():
        raise SettingsError(f"{output} is a folder; name a file in it")
    if not output.parent.is_dir():
        raise SettingsError(f"{output.parent}: there is no such folder to write {output.name} to")
    encoder = steps.encoder(settings, threads=2)
    card = {
        "trained_on": {path.name: _labels(read_rows(path)) for path in data},
        "kept_from": None if kept is None else (base or SHIPPED).name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    roads = {name: intent.road for name, intent in settings.router.intents.items()}
    started = time.monotonic()
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
    ) as progress:
        task = progress.add_task("reading", total=None)
        heads = training.train(
            encoder,
            rows,
            kept,
            roads=roads,
            card=card,
            on_progress=lambda what: progress.update(task, description=what),
        )
    heads.save(output)
    result = {
        "output": str(output),
        "rows": len(rows),
        "intents": len(heads.roads),
        "seconds": round(time.monotonic() - started, 1),
        "bytes": output.stat().st_size,
    }
    if as_json:
        print(json.dumps(result))
        return
    out.print(
        f"{output}: {result['intents']} intents from {result['rows']} rows "
        f"in {result['seconds']} s ({output.stat().st_size // 1024} KiB)"
    )


def offline_router(
    config: Path,
    heads: Path | None,
    policy: Path | None,
    outcomes: Path | None = None,
    base: Sequence[str] = (),
    tenant: str = "default",
) -> SemanticRouter:
    """The router in this process, without a cluster; prepares what is missing.

    Args:
        base: Files that the tenant's knowledge base would be made of; none: it has none.
    """
    settings: Settings = load(config if config.is_file() else None).resolved(Path.cwd())
    if heads is not None:
        settings = settings.model_copy(update={"router": settings.router.with_heads(heads)})
    own = {"policy": policy, "outcomes": outcomes}
    update = {name: path for name, path in own.items() if path is not None}
    router = settings.router.model_copy(update=update)
    settings = settings.model_copy(update={"router": router})
    encoder = steps.encoder(settings, threads=1)
    steps.prepare(settings, [s for s in models.missing(settings) if s == "router heads"])
    trained = fetch(router.heads or str(models.router_heads(settings)), router.heads_sha256)
    coverage = Coverage.load()
    known = of_files(base, settings.retrieval.chunk_tokens, encoder, coverage)
    return SemanticRouter.of(settings, encoder, trained, coverage, {("", tenant): known})


def _labels(rows: list[Row]) -> dict[str, Any]:
    """How many rows carry which label."""
    intents = {row.intent for row in rows if row.intent} - {OUT_OF_SCOPE}
    return {
        "rows": len(rows),
        "intents": len(intents - set(Route)) or None,
        "route": sum(row.intent in set(Route) for row in rows),
        "volatile": sum(row.volatile is not None for row in rows),
        "complex": sum(row.complex is not None for row in rows),
        "outcomes": sum(row.weak is not None for row in rows),
    }
