from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve_app.errors import SettingsError
from serve_app.ledger.machines import Machines

ROW = "own: {{usd_per_hour: {}, source: a cluster, as_of: 2026-11-01}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "machines.yaml"


def write(file: Path, text: str, second: int) -> None:
    file.write_text(text, "utf-8")
    os.utime(file, (second, second))


def test_a_file_may_come_change_and_go(file: Path) -> None:
    machines = Machines(file)
    assert machines.now() == {}
    write(file, ROW.format(2), 1)
    machines.look()
    assert machines.now()["own"].usd_per_hour == 2
    write(file, ROW.format(3), 2)
    machines.look()
    assert machines.now()["own"].usd_per_hour == 3
    file.unlink()
    machines.look()
    assert machines.now() == {}


def test_a_change_that_cannot_be_read_leaves_prices_as_they_were(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(file, ROW.format(2), 1)
    machines = Machines(file)
    write(file, "own: {usd_per_hour: cheap}", 2)
    machines.look()
    assert machines.now()["own"].usd_per_hour == 2
    assert "own.usd_per_hour" in caplog.text


def test_one_that_cannot_be_read_at_start_is_refused(file: Path) -> None:
    write(file, "own: {usd_per_hour: -1, source: x, as_of: 2026-11-01}", 1)
    with pytest.raises(SettingsError, match=r"own\.usd_per_hour"):
        Machines(file)
