"""Who goes first where processes share cores: engines, and what is in front of them after that."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_NICE = 5
_THREADS = Path("/proc/self/task")


def after_engines() -> None:
    """Let models compute first, from now on.

    A model that decodes holds all of its answers up, token after token. Without this a flood of
    cheap requests (decisions, masking) takes half of its core. Whoever has cores to itself, as a
    pod of its own has, loses nothing. On Linux alone: priorities are those of threads there, and a
    new one has that of the thread which starts it.
    """
    threads = [int(each.name) for each in _THREADS.iterdir()] if _THREADS.is_dir() else []
    for thread in threads:
        with contextlib.suppress(OSError):  # it has ended, or it is as low already
            if os.getpriority(os.PRIO_PROCESS, thread) < _NICE:
                os.setpriority(os.PRIO_PROCESS, thread, _NICE)
