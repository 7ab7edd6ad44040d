"""The folder beside an unfinished adapter: checkpoints, locks, and what a killed run left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serve_app.errors import Unavailable

LOSSES = "losses.jsonl"
_PREFIX = "checkpoint-"  # transformers' own


@dataclass(frozen=True, slots=True)
class Work:
    """Of one output; on a file system that all workers share."""

    folder: Path

    @classmethod
    def of(cls, output: Path) -> Work:
        return cls(output.parent / f".{output.name}.work")

    @property
    def adapter(self) -> Path:
        """The finished adapter, before it moves to its own place."""
        return self.folder / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def unfinished(self) -> Path:
        """Where a checkpoint is written before it counts."""
        return self.folder / "unfinished"

    def last_checkpoint(self) -> Path | None:
        found = {int(p.name.removeprefix(_PREFIX)): p for p in self.checkpoints.glob(f"{_PREFIX}*")}
        return found[max(found)] if found else None

    def written(self, step: int) -> Path:
        """A checkpoint that does not count yet."""
        return self.unfinished / f"{_PREFIX}{step}"

    def finish_checkpoint(self, step: int) -> None:
        """Let the checkpoint just written count, and remove those before it."""
        written = self.written(step)
        name = written.name
        for path in (*written.iterdir(), written):
            _flush(path)
        self.checkpoints.mkdir(exist_ok=True)
        # There from an earlier run only if that one was killed between here and its next step.
        shutil.rmtree(self.checkpoints / name, ignore_errors=True)
        os.replace(written, self.checkpoints / name)
        for path in self.checkpoints.glob(f"{_PREFIX}*"):
            if path.name != name:
                shutil.rmtree(path)

    @contextlib.contextmanager
    def locked(self, name: str, wait_s: float) -> Iterator[None]:
        """One at a time; the lock of a process that dies is free.

        Raises:
            Unavailable: Somebody else holds it for longer than `wait_s`.
        """
        deadline = time.monotonic() + wait_s
        with (self.folder / f"{name}.lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise Unavailable(
                            f"another run writes to {self.folder}: wait for it, or stop it"
                        ) from None
                    time.sleep(0.1)
            yield


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
