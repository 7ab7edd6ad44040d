from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from serve_app.cli import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `trivium` with arguments in this process."""
    # Wide enough that no sentence is wrapped.
    monkeypatch.setenv("COLUMNS", "300")

    def trivium(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["trivium", *arguments])
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return trivium
