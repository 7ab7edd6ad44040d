"""What `trivium generate` refuses before it loads the engine, and how a killed run goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import SettingsError
from serve_app.expert import batch
from tests.cli.conftest import Run, run  # noqa: F401  # the fixture
from tests.expert.conftest import row, save

pytestmark = pytest.mark.usefixtures("clean_environment")


def asked(number: int, question: str = "why?") -> dict[str, Any]:
    return {"id": number, **row(question)}


BAD: dict[str, tuple[list[Any], str]] = {
    "an answer at its end": ([{"id": 1, **row("q", "a")}], "rows.jsonl:1: .*ends with a question"),
    "no id": ([asked(1), row("q")], "rows.jsonl:2: not a row of"),
    "an id twice": ([asked(1), asked(1)], "rows.jsonl:2: the id 1 is taken"),
    "too long": ([asked(1), asked(2, "word " * 50_000)], r"row 2 has 50,0\d\d tokens"),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "reason"), BAD.values(), ids=BAD)
def test_a_bad_row_is_one_line_and_nothing_is_written(
    run: Run,  # noqa: F811
    tiny: Path,
    tmp_path: Path,
    rows: list[Any],
    reason: str,
) -> None:
    path, output = save(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    done = run("generate", "-i", str(path), "-o", str(output), "--base", str(tiny))
    assert done.code == 2
    assert re.search(reason, done.err)
    assert done.err.strip().count("\n") == 0
    assert not output.exists()


def test_an_adapter_that_cannot_be_used_is_one_line(
    run: Run,  # noqa: F811
    tiny: Path,
    tmp_path: Path,
) -> None:
    path, adapter = save(tmp_path / "rows.jsonl", [asked(1)]), tmp_path / "house"
    adapter.mkdir()
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x04\x95")
    done = run("generate", "-i", str(path), "-o", str(tmp_path / "out.jsonl"), "--base", str(tiny),
               "--adapter", str(adapter))  # fmt: skip
    assert done.code == 2
    assert "pickled weights can run code" in done.err
    assert done.err.strip().count("\n") == 0


def test_a_killed_run_goes_on_after_its_last_whole_line(
    run: Run,  # noqa: F811
    tiny: Path,
    tmp_path: Path,
) -> None:
    path = save(tmp_path / "rows.jsonl", [asked(1), asked(2)])
    output = save(tmp_path / "out.jsonl", [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}])
    whole = output.read_text(encoding="utf-8")
    output.write_text(whole + '{"id": 3, "te', encoding="utf-8")
    done = run("generate", "-i", str(path), "-o", str(output), "--base", str(tiny), "--json")
    assert json.loads(done.out) | {"seconds": 0} == {
        "output": str(output), "rows": 0, "skipped": 2, "completion_tokens": 0, "seconds": 0,
    }  # fmt: skip
    assert output.read_text(encoding="utf-8") == whole


def test_a_file_of_something_else_is_not_added_to(tmp_path: Path) -> None:
    output = save(tmp_path / "out.jsonl", [{"name": "a list of customers"}])
    with pytest.raises(SettingsError, match="is not what `trivium generate` writes"):
        batch.answered(output)
