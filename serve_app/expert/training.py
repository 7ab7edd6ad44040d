"""Training an adapter on Ray Train: from checked examples to a folder that appears complete."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.errors import SettingsError
from serve_app.expert import curves, fit, memory, tokens
from serve_app.expert.admission import CONFIG, WEIGHTS, Limits, admit
from serve_app.expert.base import Base
from serve_app.expert.bucket import Bucket
from serve_app.expert.examples import Example, read_examples, refuse_leaks
from serve_app.expert.recipe import FILE, Data, Hyperparameters, Recipe
from serve_app.expert.work import LOSSES, Work

if TYPE_CHECKING:
    from serve_app.expert.worker import Job

_TIMED = 2 << 30  # bytes of weights: half a billion parameters on a CPU


@dataclass(frozen=True, slots=True)
class Plan:
    """Training, checked and counted: nothing is left that the input could be at fault for.

    Attributes:
        output: The adapter's folder; with a bucket, where it is put together before it goes there.
        finished: Whether an earlier run of this very recipe left its output.
    """

    base: Base
    recipe: Recipe
    train: tuple[tokens.Pack, ...]
    valid: tuple[tokens.Pack, ...]
    output: Path
    finished: bool
    start: Path | None = None
    bucket: Bucket | None = None

    @property
    def work(self) -> Work:
        return Work.of(self.output)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it is trained.

    Attributes:
        workers: Processes that share each step; on GPUs, one each.
        accelerator: `cpu` or `gpu`.
        checkpointing: Whether activations are computed again rather than kept: a third more time,
            a tenth of their memory.
    """

    workers: int
    accelerator: str
    save_every: int
    checkpointing: bool = False


def plan(
    base: Base,
    train: Path,
    valid: Path,
    output: Path,
    chosen: Hyperparameters,
    licence: str | None,
    start: Path | None = None,
    bucket: Bucket | None = None,
) -> Plan:
    """Read, check and count everything; writes nothing.

    Args:
        output: The adapter's folder; with a bucket, a place for it on this machine.
        start: An adapter of the same base and rank to go on from; else new weights.

    Raises:
        SettingsError: Some input is bad, or the output, finished or not, is of another recipe.
    """
    begun = _begun(start, base, chosen) if start else None
    learned, held = read_examples(train), read_examples(valid)
    refuse_leaks(learned, held)
    packs = [_packs(base, path, rows, chosen) for path, rows in ((train, learned), (valid, held))]
    (train_packs, train_data), (valid_packs, valid_data) = packs
    recipe = Recipe(
        base={"name": base.name, "weights_sha256": base.weights_sha256()},
        train=train_data,
        valid=valid_data,
        hyperparameters=chosen,
        licence=licence,
        steps=chosen.epochs * -(-len(train_packs) // chosen.batch),
        start=begun,
    )
    if not output.parent.is_dir():
        raise SettingsError(f"{output.parent}: there is no such folder to write {output.name} to")
    finished = _is_there(recipe, output, bucket)
    return Plan(base, recipe, train_packs, valid_packs, output, finished, start, bucket)


def seconds(plan: Plan, machine: Machine) -> float | None:
    """That training will take, from one pack timed here.

    None where that would be no estimate: there is no such GPU, or the base is too large for this
    machine to run it for the sake of a number.
    """
    import torch

    if machine.accelerator == "gpu" and not torch.cuda.is_available():
        return None
    if machine.accelerator == "cpu" and needs(plan, machine).weights > _TIMED:
        return None
    from serve_app.expert import worker

    each = worker.seconds_per_pack(_job(plan, machine, None))
    chosen = plan.recipe.hyperparameters
    read = len(plan.valid) * (chosen.epochs + 1) / 3  # forward only
    return each * (len(plan.train) * chosen.epochs + read) / machine.workers


def needs(plan: Plan, machine: Machine) -> memory.Memory:
    """The memory that each worker will need; no weight is read for it."""
    return memory.of_training(
        plan.base.folder,
        plan.recipe.hyperparameters,
        checkpointing=machine.checkpointing,
        width=4 if machine.accelerator == "cpu" else 2,
    )


def train(plan: Plan, machine: Machine, on_report: fit.Report) -> dict[str, Any]:
    """Train on the Ray cluster that this process has joined, going on from the last checkpoint.

    Returns:
        What `recipe.json` holds.

    Raises:
        TriviumError: It failed; says why, and what the same command will do next.
    """
    work = plan.work
    work.folder.mkdir(exist_ok=True)
    with work.locked("run", wait_s=0.0):
        recipe = json.dumps(plan.recipe.record(), indent=2) + "\n"
        (work.folder / FILE).write_text(recipe, encoding="utf-8")
        if plan.bucket:
            plan.bucket.begin(recipe)
        fit.run(plan, machine, partial(_job, plan, machine), on_report)
        record = _finish(plan, machine)
        if plan.bucket:
            plan.bucket.publish(plan.output)
        return record


def _is_there(recipe: Recipe, output: Path, bucket: Bucket | None) -> bool:
    """Whether the output is.

    Raises:
        SettingsError: It is of another recipe, or a run that is not finished is.
    """
    work = Work.of(output).folder
    found = _record(output) if bucket is None else bucket.finished()
    begun = _record(work) if bucket is None else bucket.begun()
    if found is not None:
        where = bucket.url if bucket else output
        recipe.refuse_other(where, found, "name another --output, or remove it")
    if begun is not None:
        where = bucket.work_url if bucket else work
        advice = "finish that run with its own command, or remove the folder"
        recipe.refuse_other(where, begun, advice)
    return found is not None


def _record(folder: Path) -> bytes | None:
    """A folder's `recipe.json`, empty where it has none; None without the folder."""
    if not folder.exists():
        return None
    try:
        return (folder / FILE).read_bytes()
    except OSError:
        return b""


def finished(plan: Plan) -> dict[str, Any]:
    """What the `recipe.json` of a finished output holds."""
    content = plan.bucket.finished() if plan.bucket else _record(plan.output)
    record: dict[str, Any] = json.loads(content or b"")
    return record


def _begun(start: Path, base: Base, chosen: Hyperparameters) -> str:
    """A hash of an adapter that may be gone on from: its weights and how they are applied."""
    found = admit(start, base, Limits(rank=sys.maxsize, size=sys.maxsize))
    if found.rank != chosen.rank:
        raise SettingsError(
            f"{start} has rank {found.rank}, not {chosen.rank}: set --rank {found.rank}"
        )
    return hashlib.sha256(f"{found.files[WEIGHTS]} {found.files[CONFIG]}".encode()).hexdigest()


def _packs(
    base: Base, path: Path, rows: Sequence[Example], chosen: Hyperparameters
) -> tuple[tuple[tokens.Pack, ...], Data]:
    # Imported here: only training needs the tokenizer, and it takes seconds.
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    if not tokenizer.chat_template:
        raise SettingsError(
            f"{base.folder}: its tokenizer has no chat template; take the model's instruct version"
        )
    encoded = tokens.encode(tokenizer, rows, chosen.max_tokens)
    data = Data(
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        rows=len(rows),
        tokens=sum(map(len, encoded)),
        learned=sum(int(each.learned.sum()) for each in encoded),
    )
    return tuple(tokens.pack(encoded, chosen.max_tokens)), data


def _job(plan: Plan, machine: Machine, reports: Any) -> Job:
    from serve_app.expert.worker import Job

    on_cpu = machine.accelerator == "cpu"
    return Job(
        base=replace(plan.base, folder=plan.base.folder.resolve()),
        hyperparameters=plan.recipe.hyperparameters,
        start=plan.start and plan.start.resolve(),
        train=plan.train,
        valid=plan.valid,
        folder=plan.work.folder.resolve(),
        bucket=plan.bucket.url if plan.bucket else None,
        workers=machine.workers,
        save_every=machine.save_every,
        use_cpu=on_cpu,
        checkpointing=machine.checkpointing,
        # Ray gives a worker one thread for the one CPU it asks for.
        threads=max(1, (os.cpu_count() or 1) // machine.workers) if on_cpu else None,
        reports=reports,
    )


def _finish(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Recipe, losses and picture into the adapter's folder, and the folder to its place."""
    adapter = plan.work.adapter
    lines = (adapter / LOSSES).read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line) for line in lines]
    fitted = [entry["loss"] for entry in losses if "loss" in entry]
    held = [entry["valid_loss"] for entry in losses if "valid_loss" in entry]
    outcome = {
        "losses": {
            "train_first": fitted[0],
            "train_last": fitted[-1],
            "valid_before": held[0],
            "valid_after": held[-1],
        },
        "seconds": max(entry["seconds"] for entry in losses),
        "workers": machine.workers,
        "accelerator": machine.accelerator,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    record = replace(plan.recipe, outcome=outcome).record()
    (adapter / FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    curves.draw(losses, adapter / "losses.png")
    os.replace(adapter, plan.output)
    shutil.rmtree(plan.work.folder, ignore_errors=True)
    return record
