"""Set-up steps that a command needs first, shown as they run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from serve_app import models
from serve_app.cli.console import errors
from serve_app.errors import Unavailable
from serve_app.router.encoder import Encoder
from serve_app.settings import Settings


def prepare(settings: Settings, steps: Sequence[str]) -> None:
    """Run the given steps of `models.missing`, each in a process of its own.

    What a step loads is gone when the replicas need the memory.

    Raises:
        Unavailable: A step failed; says why.
    """
    for step in steps:
        started = time.monotonic()
        with errors.status(f"preparing the {step}, once"):
            code = "import sys; from serve_app.cli.steps import run; run(*sys.argv[1:])"
            done = subprocess.run(
                [sys.executable, "-c", code, settings.model_dump_json(), step],
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
            raise Unavailable(f"preparing the {step} failed: {reason}")
        errors.print(f"prepared the {step} in {time.monotonic() - started:.0f} s")


def run(settings: str, step: str) -> None:
    """The child's side of `prepare`."""
    models.prepare(Settings.model_validate_json(settings), step)


def encoder(settings: Settings, threads: int) -> Encoder:
    """The router's encoder in this process, prepared if need be."""
    prepare(settings, [step for step in models.missing(settings) if step == "router encoder"])
    folder = models.router_encoder(settings)
    return Encoder(folder, max_tokens=settings.router.max_tokens, threads=threads)
