"""What is in front of the engines computes after them, with all of its threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import os, threading
from serve_app.priority import after_engines

stay = threading.Event()
before = threading.Thread(target=stay.wait)
before.start()
after_engines()
after_engines()  # of two deployments in one process
later = threading.Thread(target=stay.wait)
later.start()
print(*sorted(os.getpriority(os.PRIO_PROCESS, int(each)) for each in os.listdir("/proc/self/task")))
stay.set()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="priorities are those of threads on Linux")
def test_every_thread_goes_after_the_engines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    niceness = {int(each) for each in done.stdout.split()}
    assert min(niceness) >= 5, done.stdout
