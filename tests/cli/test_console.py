"""What long commands say of their progress."""

from __future__ import annotations

import pytest

from serve_app.cli.console import Bars


def test_progress_is_told_in_lines_where_nobody_watches_a_bar(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Bars(every_s=0.0) as bars:
        task = bars.add_task("embedding", total=5000, rate="900 chunks/s")
        bars.update(task, completed=1500)
        bars.advance(task)
    first, second = capsys.readouterr().err.split("\n")[:2]
    assert first.startswith("embedding 1,500/5,000, 900 chunks/s")
    assert second.startswith("embedding 1,501/5,000, 900 chunks/s")


def test_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars(every_s=3600.0) as bars:
        task = bars.add_task("embedding", total=5000)
        bars.advance(task)
    assert capsys.readouterr().err.strip() == ""
