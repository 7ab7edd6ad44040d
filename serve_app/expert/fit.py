"""One run of Ray Train: what it is told, where it keeps what it knows, and why it failed."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from serve_app.errors import TriviumError, Unavailable

if TYPE_CHECKING:
    from ray.train import RunConfig, ScalingConfig

    from serve_app.expert.training import Machine, Plan
    from serve_app.expert.worker import Job

Report = Callable[[dict[str, float]], None]  # an entry of the log: step and loss, or valid_loss


def _loop(config: dict[str, Any]) -> None:
    """What Ray Train runs on a worker; it loads torch there and not here."""
    from serve_app.expert import worker

    worker.run(config)


def scaling(machine: Machine) -> ScalingConfig:
    """What Ray Train starts: all that differs between a laptop and many GPUs."""
    from ray.train import ScalingConfig

    return ScalingConfig(num_workers=machine.workers, use_gpu=machine.accelerator == "gpu")


def run(plan: Plan, machine: Machine, job: Callable[[Any], Job], on_report: Report) -> None:
    """Train to the end; the adapter is then in the work folder.

    Args:
        job: What workers are given, with the queue that takes their entries of the log.

    Raises:
        TriviumError: It failed; says why.
    """
    from ray.train import TrainingFailedError
    from ray.train.torch import TorchTrainer

    with _reports(on_report) as queue:
        trainer = TorchTrainer(
            _loop,
            train_loop_config={"job": job(queue)},
            scaling_config=scaling(machine),
            run_config=_run_config(plan),
        )
        try:
            done = trainer.fit()
        except TrainingFailedError as error:
            failures = getattr(error, "worker_failures", None) or {0: error}
            raise _reason(failures) from None
        except SystemExit:
            # How Ray Train answers Ctrl-C: as if all were well.
            raise KeyboardInterrupt from None
    if plan.bucket:
        # The workers' last word is the adapter; they may have been on other machines.
        assert done.checkpoint is not None
        done.checkpoint.to_directory(str(plan.work.adapter))


def _run_config(plan: Plan) -> RunConfig:
    """Where Ray Train keeps what it knows of a run; in a bucket, its checkpoints too."""
    from ray.train import CheckpointConfig, RunConfig

    if plan.bucket:
        files, path = plan.bucket.storage()
        return RunConfig(
            name="run",  # under which it finds the last checkpoint of a run that was killed
            storage_path=path,
            storage_filesystem=files,
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        )
    # It keeps notes on each run; nothing reads them later.
    notes = plan.work.folder / "ray"
    shutil.rmtree(notes, ignore_errors=True)
    return RunConfig(name=str(time.time_ns()), storage_path=str(notes.resolve()))


@contextlib.contextmanager
def _reports(on_report: Report) -> Iterator[Any]:
    """A queue to give to the workers; each entry they put in is handed over here."""
    from ray.util.queue import Queue

    queue = Queue()

    def follow() -> None:
        while (entry := queue.get()) is not None:
            on_report(entry)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.put(None)
        thread.join(10)


def _reason(failures: dict[int, Exception]) -> TriviumError:
    """Why workers failed: our own error if one of them has it."""
    causes = [getattr(error, "cause", None) or error for error in failures.values()]
    for cause in causes:
        if isinstance(cause, TriviumError):
            return cause
    lines = str(causes[0]).strip().splitlines() or [type(causes[0]).__name__]
    return Unavailable(
        f"training failed: {lines[-1]}; the same command goes on from the last checkpoint"
    )
