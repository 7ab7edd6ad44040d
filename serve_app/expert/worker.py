"""One worker's training of an adapter: transformers' Trainer on a PEFT model. Loads torch.

Ray Train starts it, on as many workers as there are, with torch's process group ready; the Trainer
finds the group and shares the packs out.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from serve_app.errors import InvalidRequest, Unavailable
from serve_app.expert import bucket, lora
from serve_app.expert.base import Base
from serve_app.expert.recipe import Hyperparameters
from serve_app.expert.tokens import Ints, Pack, features
from serve_app.expert.work import LOSSES, Work

_FULL = 32 * 1024 * 1024  # bytes free: less than a checkpoint, whatever the writer's message says
_LEFT_BEHIND_S = 60.0  # how long the worker of a killed run may take to notice


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs.

    Attributes:
        start: Folder of the adapter to go on from; None begins with new weights.
        workers: That share a step.
        folder: Of work on this output, on a file system that all workers share.
        bucket: URL of the output where it is in a bucket: its checkpoints then are too, and the
            workers share no folder.
        save_every: Optimizer steps between checkpoints.
        checkpointing: Whether activations are computed again in the backward pass and not kept.
        threads: Of torch, on the CPU; None leaves them alone.
        reports: Takes each entry of the log (`ray.util.queue.Queue`).
    """

    base: Base
    hyperparameters: Hyperparameters
    start: Path | None
    train: tuple[Pack, ...]
    valid: tuple[Pack, ...]
    folder: Path
    bucket: str | None
    workers: int
    save_every: int
    use_cpu: bool
    checkpointing: bool = False
    threads: int | None = None
    reports: Any = None


def run(config: Mapping[str, Any]) -> None:
    """The function that Ray Train runs on each worker.

    Leaves the adapter and its losses in the work folder's `adapter`, or as the last checkpoint of
    the run in its bucket.

    Args:
        config: `job` is a `Job`.

    Raises:
        Unavailable: A checkpoint cannot be written, or a killed run's worker does not end.
        InvalidRequest: The loss is no number any more.
    """
    job: Job = config["job"]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if job.threads:
        torch.set_num_threads(job.threads)
    first = int(os.environ.get("RANK", "0")) == 0
    if job.bucket:
        with tempfile.TemporaryDirectory(prefix="trivium-train-") as folder:
            _run_from_bucket(job, Work(Path(folder)), first=first)
        return
    work = Work(job.folder)
    if not first:
        _train(job, work, work.last_checkpoint())
        return
    with work.locked("worker", _LEFT_BEHIND_S):
        _save(job, work, _train(job, work, work.last_checkpoint()))


def _run_from_bucket(job: Job, work: Work, *, first: bool) -> None:
    last = bucket.taken(work.folder / "last")
    if last and (last / LOSSES).is_file():
        return  # the adapter itself: a run was at its end when it was killed
    trainer = _train(job, work, last)
    if first:
        _save(job, work, trainer)
    with _explained(job, work, "the adapter"):
        bucket.hand_over(work.adapter)


def _save(job: Job, work: Work, trainer: Trainer) -> None:
    """The adapter and its losses, into the work folder."""
    shutil.rmtree(work.adapter, ignore_errors=True)
    with _explained(job, work, "the adapter"):
        trainer.model.save_pretrained(work.adapter)
        (work.adapter / "README.md").unlink(missing_ok=True)  # PEFT's form, not filled in
        _name_base(work.adapter, job.base.name)
        entries = [json.dumps(_entry(each)) for each in trainer.state.log_history]
        (work.adapter / LOSSES).write_text("\n".join(entries) + "\n", encoding="utf-8")


def seconds_per_pack(job: Job) -> float:
    """How long a pack takes here: the second of two, forward and backward."""
    logging.disable_progress_bar()
    if job.threads:
        torch.set_num_threads(job.threads)
    model = lora.model(job)
    longest = max(job.train, key=lambda pack: sum(map(len, pack)))
    batch = _tensors([features(longest)])
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        model(**{k: v.to(model.device) for k, v in batch.items()}).loss.backward()
        seconds = time.monotonic() - started
    return seconds


def _train(job: Job, work: Work, last: Path | None) -> Trainer:
    set_seed(job.hyperparameters.seed)
    trainer = AdapterTrainer(job, work, last)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return trainer


def _arguments(job: Job, work: Work, *, resuming: bool) -> TrainingArguments:
    chosen = job.hyperparameters
    return TrainingArguments(
        output_dir=str(work.unfinished),
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=chosen.batch // job.workers,
        num_train_epochs=chosen.epochs,
        learning_rate=chosen.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=chosen.warmup,
        max_grad_norm=1.0,
        seed=chosen.seed,
        # What the base itself loses, to measure the gain by.
        eval_on_start=not resuming,
        # After each epoch; not by "epoch", which evaluates after the checkpoint of the same step: a
        # run killed between the two would never do it.
        eval_strategy="steps",
        eval_steps=-(-len(job.train) // chosen.batch),
        save_strategy="steps",
        save_steps=job.save_every,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        bf16=lora.dtype(job) is torch.bfloat16,
        gradient_checkpointing=job.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if job.checkpointing else None,
        dataloader_pin_memory=not job.use_cpu,
        use_cpu=job.use_cpu,
        ddp_find_unused_parameters=False,
    )


class AdapterTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """The Trainer, with checkpoints that appear complete or not at all."""

    def __init__(self, job: Job, work: Work, last: Path | None) -> None:
        super().__init__(
            model=lora.model(job),
            args=_arguments(job, work, resuming=last is not None),
            train_dataset=[features(pack) for pack in job.train],
            eval_dataset=[features(pack) for pack in job.valid],
            data_collator=_tensors,
        )
        self._job = job
        self._work = work
        self._reports = job.reports
        self._started = time.monotonic()
        self._before = _seconds(last)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Every entry of the log: it also says when it was, and goes to who started us."""
        logs["seconds"] = round(self._before + time.monotonic() - self._started, 3)
        super().log(logs, start_time)
        if not math.isfinite(logs.get("loss", 0.0)):
            raise InvalidRequest(
                f"the loss is {logs['loss']} at step {self.state.global_step}: lower "
                "--learning-rate, and begin anew with another --output"
            )
        if self._reports is not None and self.is_world_process_zero():
            self._reports.put(_entry(self.state.log_history[-1]))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        if self._job.bucket or self.is_world_process_zero():
            shutil.rmtree(self._work.unfinished, ignore_errors=True)
        with _explained(self._job, self._work, f"the checkpoint of step {step}"):
            super()._save_checkpoint(model, trial)
            if self._job.bucket:
                bucket.hand_over(self._work.written(step))
                return
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                self._work.finish_checkpoint(step)


@contextlib.contextmanager
def _explained(job: Job, work: Work, what: str) -> Iterator[None]:
    """Why something cannot be written, in one line, whichever library was writing."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # Torch's writer says that writing failed, and not why.
        full = shutil.disk_usage(work.folder).free < _FULL or "No space left" in str(error)
        reason = os.strerror(errno.ENOSPC) if full else str(error).strip().splitlines()[0]
        last = "the last checkpoint" if job.bucket else work.last_checkpoint()
        kept = f"goes on from {getattr(last, 'name', last)}" if last else "begins again"
        raise Unavailable(
            f"{what} cannot be written to {job.bucket or work.folder}: {reason}; put that right, "
            f"and the same command {kept}"
        ) from None


def _tensors(packs: list[dict[str, Ints]]) -> dict[str, torch.Tensor]:
    """The one pack of a micro-batch; a pack fills the machine by itself."""
    (pack,) = packs
    return {name: torch.from_numpy(values) for name, values in pack.items()}


def _entry(logged: Mapping[str, Any]) -> dict[str, float]:
    """A line of losses.jsonl out of the Trainer's log."""
    names = {"eval_loss": "valid_loss"}
    kept = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "seconds")
    return {names.get(name, name): logged[name] for name in kept if name in logged}


def _seconds(checkpoint: Path | None) -> float:
    """How long training took up to a checkpoint, over all runs."""
    if checkpoint is None:
        return 0.0
    state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    return max((entry["seconds"] for entry in state["log_history"]), default=0.0)


def _name_base(adapter: Path, name: str) -> None:
    """PEFT notes the folder that the base lay in, which means nothing elsewhere."""
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
