"""The Ray of this machine, when it does not come up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from serve_app.cli import local
from serve_app.errors import Unavailable
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
def test_ray_that_never_comes_up_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", "0")
    with (
        pytest.raises(Unavailable, match=r"Ray does not start \(.*\); its logs: /.*/logs"),
        local.cluster(Settings(state_dir=tmp_path), purpose="test"),
    ):
        pass
    assert not [p for p in psutil.Process().children(recursive=True) if "gcs" in p.name()]
