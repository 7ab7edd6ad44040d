"""The Ray of this machine, when it does not come up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from serve_app.cli import local
from serve_app.settings import Settings


def test_ray_that_does_not_come_up_is_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[subprocess.Popen[bytes]] = []

    def initialise(**_: Any) -> dict[str, Any]:
        if left:
            return {"gcs_address": "127.0.0.1:1"}
        left.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(local, "initialise", initialise)
    with local.cluster(Settings(state_dir=tmp_path), purpose="test") as addresses:
        assert addresses.ray == "127.0.0.1:1"
        # What the failed start left behind does not stay beside the good one.
        assert not psutil.pid_exists(left[0].pid) or left[0].poll() is not None


@pytest.mark.timeout(120)
def test_ray_that_never_comes_up_is_said_in_a_sentence(tmp_path: Path) -> None:
    script = """if True:
        import sys
        from pathlib import Path
        from serve_app.cli import local
        from serve_app.settings import Settings
        with local.cluster(Settings(state_dir=Path(sys.argv[1])), purpose="test"):
            pass
    """
    # A process of its own: Ray reads its environment once.
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "RAY_gcs_server_port_wait_time_s": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"Unavailable: Ray does not start \(.*\); its logs: /.*/logs", done.stderr)


def test_processes_that_were_there_before_ray_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "initialise", lambda **_: {"gcs_address": "127.0.0.1:1"})
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with local.cluster(Settings(state_dir=tmp_path), purpose="test"):
        pass
    assert bystander.poll() is None
    bystander.communicate(b"\n")
