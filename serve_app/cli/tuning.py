"""`trivium train expert`: an adapter for the small model."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from serve_app import models
from serve_app.cli import local, steps
from serve_app.cli.client import Json
from serve_app.cli.console import Bars, errors, out
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.errors import SettingsError
from serve_app.expert.base import Base, find
from serve_app.expert.bucket import Bucket
from serve_app.expert.recipe import Hyperparameters
from serve_app.settings import Settings, load
from serve_app.storage import fetched

if TYPE_CHECKING:
    from serve_app.expert.training import Machine, Plan

_LEARNING = "Learning"
_DEFAULT = Hyperparameters()


def train_expert(
    data: Annotated[
        str, typer.Option("--data", "-d", help='Examples, JSONL: {"messages": […]}; path or URL.')
    ],
    valid: Annotated[
        str,
        typer.Option(help="Others, to measure on; shares no question with --data. Path or URL."),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="The adapter's folder, or its URL such as s3://bucket/house; appears when "
            "complete.",
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(help="Model to adapt, folder or hub id; default: the expert's own."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="An adapter to go on from; default: begin with new weights."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Whose terms the adapter is under; noted in its recipe.")
    ] = None,
    rank: Annotated[
        int, typer.Option(min=1, help="Of the LoRA matrices.", rich_help_panel=_LEARNING)
    ] = _DEFAULT.rank,
    learning_rate: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Its peak; the smaller the model, the higher: 135M takes 1e-3.",
            rich_help_panel=_LEARNING,
        ),
    ] = _DEFAULT.learning_rate,
    epochs: Annotated[
        int, typer.Option(min=1, help="Times through the data.", rich_help_panel=_LEARNING)
    ] = _DEFAULT.epochs,
    batch: Annotated[
        int, typer.Option(min=1, help="Packs in a step.", rich_help_panel=_LEARNING)
    ] = _DEFAULT.batch,
    max_tokens: Annotated[
        int,
        typer.Option(
            min=16, help="Longest example, and size of a pack.", rich_help_panel=_LEARNING
        ),
    ] = _DEFAULT.max_tokens,
    seed: Annotated[
        int, typer.Option(min=0, help="Same seed, same adapter.", rich_help_panel=_LEARNING)
    ] = _DEFAULT.seed,
    four_bit: Annotated[
        bool | None,
        typer.Option(
            "--four-bit/--no-four-bit",
            help="Hold the base in 4 bits: 8B then trains on one GPU of 24 GB; default: "
            "expert.training.four_bit.",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that share a step; on GPUs, one each; default: "
            "expert.training_workers.",
        ),
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 25,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check and count everything, say what memory it takes, stop."
        ),
    ] = False,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Teach the small model how answers look: LoRA on all its linear layers, by Ray Train.

    The data is OpenAI's chat fine-tuning format; the loss is taken on the assistant's turns alone
    (but those with [bold]"weight": 0[/bold]). Short examples share a pack, and none sees another.

    A run that was killed is finished by the same command, with the same losses as if it had not
    been: checkpoints lie beside the output until it is complete. The output is a PEFT folder with
    recipe.json, losses.jsonl and losses.png.

    It runs on a Ray cluster of its own, or on that of [bold]RAY_ADDRESS[/bold]. The output must
    then be on a file system that all workers share, or in a bucket: any machine that reaches the
    bucket finishes the run.

    [bold]Example:[/bold] trivium train expert -d train.jsonl --valid valid.jsonl -o adapters/house
    --licence Apache-2.0 --dry-run
    """
    from serve_app.expert import training

    settings = load(config if config.is_file() else None).resolved(Path.cwd())
    workers = workers or settings.expert.training_workers
    if batch % workers:
        raise SettingsError(
            f"--batch {batch} cannot be shared by {workers} workers: a multiple can"
        )
    training_settings = settings.expert.training
    four_bit = training_settings.four_bit if four_bit is None else four_bit
    if four_bit and settings.expert.accelerator == "cpu":
        raise SettingsError("a base in 4 bits needs a GPU: set expert.accelerator to gpu")
    chosen = Hyperparameters(rank, learning_rate, epochs, batch, max_tokens, seed, four_bit)
    machine = training.Machine(
        workers, settings.expert.accelerator, save_every, training_settings.checkpointing
    )
    bucket = Bucket.of(output) if "://" in output else None
    with tempfile.TemporaryDirectory(prefix="trivium-train-") as folder:
        here = Path(folder)
        with errors.status("checking the data"):
            plan = training.plan(
                base_of(settings, base),
                fetched(data, here / "train"),
                fetched(valid, here / "valid"),
                here / bucket.name if bucket else Path(output),
                chosen,
                licence,
                start,
                bucket,
            )
        if dry_run:
            with errors.status("timing a pack"):
                seconds = training.seconds(plan, machine)
            _show_plan(plan, training.needs(plan, machine), seconds, as_json)
            return
        _show(output, _trained(plan, machine, settings, output), as_json)


def _trained(plan: Plan, machine: Machine, settings: Settings, output: str) -> dict[str, Any]:
    """What `recipe.json` holds, of a run that is brought to its end, or was before."""
    from serve_app.expert import training

    if plan.finished:
        errors.print(f"{output} is finished already, by this very recipe")
        return training.finished(plan)
    purpose = output if plan.bucket else str(plan.output.resolve())
    try:
        with (
            _cluster(settings, purpose, machine.workers),
            _progress(plan.recipe.steps) as on_report,
        ):
            return training.train(plan, machine, on_report)
    except KeyboardInterrupt:
        errors.print("stopped; the same command goes on from the last checkpoint")
        raise


def base_of(settings: Settings, named: str | None) -> Base:
    """The model that was named, or else the expert's own, prepared if need be."""
    if named is not None:
        return find(named, named.rstrip("/").rpartition("/")[2] if Path(named).is_dir() else named)
    steps.prepare(settings, [step for step in models.missing(settings) if step == "base model"])
    return find(models.base_model(settings), settings.expert.model)


@contextlib.contextmanager
def _cluster(settings: Settings, purpose: str, workers: int) -> Iterator[None]:
    """Ray, as this process sees it: the one of RAY_ADDRESS, or one of its own.

    Raises:
        SettingsError: This machine has no place for so many workers. (A cluster may yet grow.)
    """
    with local.interruptible():
        if "RAY_ADDRESS" not in os.environ:
            with local.cluster(settings, purpose=purpose):
                import ray

                kind = settings.expert.accelerator.upper()
                there = int(ray.cluster_resources().get(kind, 0))
                if there < workers:
                    raise SettingsError(
                        f"{workers} workers need a {kind} each and this machine has {there}: "
                        "lower --workers, or name a larger cluster with RAY_ADDRESS"
                    )
                yield
            return
        import ray

        local.initialise()
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Bars(*columns) as progress:
        task = progress.add_task("starting", total=total, losses="")
        last: dict[str, float] = {}

        def on_report(entry: dict[str, float]) -> None:
            last.update(entry)
            shown = [
                f"{name.replace('_', ' ')} {last[name]:.3f}"
                for name in ("loss", "valid_loss")
                if name in last
            ]
            progress.update(
                task, description="training", completed=entry["step"], losses=", ".join(shown)
            )

        yield on_report


def _show_plan(plan: Plan, memory: Any, seconds: float | None, as_json: bool) -> None:
    recipe, packs = plan.recipe, {"train": len(plan.train), "valid": len(plan.valid)}
    if as_json:
        estimated = {"estimated_bytes": memory.total, "estimated_seconds": seconds}
        print(json.dumps({"dry_run": True, **recipe.record(), "packs": packs, **estimated}))
        return
    for name in ("train", "valid"):
        data = getattr(recipe, name)
        out.print(
            f"{name}: {data.rows:,} rows, {data.tokens:,} tokens ({data.learned:,} learned) "
            f"in {packs[name]:,} packs  {data.file}"
        )
    took = (
        "its time not estimated on this machine"
        if seconds is None
        else f"about {_duration(seconds)}"
    )
    out.print(f"{recipe.steps:,} steps, {took}, from {recipe.base['name']}")
    out.print(
        f"each worker needs about {memory.total / 1e9:.1f} GB: {memory.weights / 1e9:.1f} for the "
        f"base, {memory.adapter / 1e9:.1f} for the adapter and its optimizer, "
        f"{memory.activations / 1e9:.1f} for a pack"
    )


def _show(output: str, record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"output": output, **record}))
        return
    losses = record["losses"]
    out.print(
        f"{output}: {record['train']['rows']:,} rows, {record['steps']:,} steps in "
        f"{_duration(record['seconds'])}; validation loss {losses['valid_before']:.3f} → "
        f"[bold]{losses['valid_after']:.3f}[/bold]"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
