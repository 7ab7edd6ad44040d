"""A tiny model really trained: on Ray Train by the command, killed, and brought to an end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import SettingsError
from serve_app.expert import training
from serve_app.expert.base import find
from serve_app.expert.recipe import Hyperparameters
from serve_app.expert.work import Work
from tests.cli.conftest import Run, run  # noqa: F401  # the fixture
from tests.expert.conftest import row, save

pytestmark = pytest.mark.usefixtures("clean_environment")

CHOSEN = Hyperparameters(rank=4, epochs=4, batch=2, max_tokens=96)
OPTIONS = ("--rank", "4", "--epochs", "4", "--batch", "2", "--max-tokens", "96")
# A process that trains as a worker of Ray Train does, and can be killed as one can.
ALONE = """
import pickle, sys
from pathlib import Path
from serve_app.expert import worker
worker.run({"job": pickle.loads(Path(sys.argv[1]).read_bytes())})
"""


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    rows = [row(f"What is {n} and {n}?", f"It is {2 * n}, surely.") for n in range(30)]
    return save(tmp_path / "train.jsonl", rows[:24]), save(tmp_path / "valid.jsonl", rows[24:])


def planned(tiny: Path, data: tuple[Path, Path], output: Path) -> training.Plan:
    return training.plan(find(str(tiny), "tiny"), *data, output, CHOSEN, None)


def start(plan: training.Plan, folder: Path) -> subprocess.Popen[bytes]:
    import pickle

    plan.work.folder.mkdir(exist_ok=True)
    recipe = json.dumps(plan.recipe.record())
    (plan.work.folder / "recipe.json").write_text(recipe, encoding="utf-8")
    job = folder / f"{plan.output.name}.job"
    job.write_bytes(pickle.dumps(training._job(plan, training.Machine(1, "cpu", 2), None)))
    return subprocess.Popen([sys.executable, "-c", ALONE, str(job)])


def losses(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def reached(work: Work) -> int:
    last = work.last_checkpoint()
    return int(last.name.rpartition("-")[2]) if last else 0


@pytest.mark.timeout(300)
def test_a_run_killed_twice_ends_as_one_that_was_not(
    run: Run,  # noqa: F811
    tiny: Path,
    data: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    whole = planned(tiny, data, tmp_path / "whole")
    undisturbed = start(whole, tmp_path)
    assert undisturbed.wait() == 0
    killed = planned(tiny, data, tmp_path / "killed")
    for step in (1, 5):
        process = start(killed, tmp_path)
        while reached(killed.work) <= step and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = run("train", "expert", "--data", str(data[0]), "--valid", str(data[1]), "--output",
               str(killed.output), "--base", str(tiny), *OPTIONS, "--json")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["steps"] == killed.recipe.steps
    assert losses(killed.output) == losses(whole.work.adapter)
    weights = "adapter_model.safetensors"
    assert (killed.output / weights).read_bytes() == (whole.work.adapter / weights).read_bytes()
    assert record["losses"]["valid_after"] < record["losses"]["valid_before"]
    assert (killed.output / "losses.png").stat().st_size > 0
    assert not killed.work.folder.exists()
    again = run("train", "expert", "--data", str(data[0]), "--valid", str(data[1]), "--output",
                str(killed.output), "--base", str(tiny), *OPTIONS, "--rank", "8")  # fmt: skip
    assert again.code == 2
    assert "rank 4 → 8" in again.err


def test_a_dry_run_counts_and_writes_nothing(
    run: Run,  # noqa: F811
    tiny: Path,
    data: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    before = set(tmp_path.iterdir())
    shown = run("train", "expert", "--data", str(data[0]), "--valid", str(data[1]), "--output",
                str(tmp_path / "new"), "--base", str(tiny), *OPTIONS,
                "--dry-run", "--json")  # fmt: skip
    counted = json.loads(shown.out)
    assert counted["train"]["rows"] == 24
    assert counted["estimated_seconds"] > 0
    assert set(tmp_path.iterdir()) == before


def test_a_missing_base_is_one_line(
    run: Run,  # noqa: F811
    data: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    done = run("train", "expert", "--data", str(data[0]), "--valid", str(data[1]), "--output",
               str(tmp_path / "new"), "--base", str(tmp_path / "nowhere"))  # fmt: skip
    assert done.code == 2
    assert "there is no such folder" in done.err
    assert done.err.count("\n") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 3 MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a full disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_keeps_the_checkpoint(
    tiny: Path, data: tuple[Path, Path], small_disk: Path, tmp_path: Path
) -> None:
    plan = planned(tiny, data, small_disk / "out")
    process = start(plan, tmp_path)
    while not reached(plan.work) and process.poll() is None:
        time.sleep(0.01)
    (small_disk / "ballast").write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - 4096)))
    assert process.wait() != 0
    last = plan.work.last_checkpoint()
    assert last is not None
    assert (last / "trainer_state.json").is_file()
    (small_disk / "ballast").unlink()
    assert start(plan, tmp_path).wait() == 0


def test_an_unfinished_run_of_another_recipe_is_not_mixed_in(
    tiny: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    plan = planned(tiny, data, tmp_path / "out")
    plan.work.folder.mkdir()
    other = {**plan.recipe.record(), "id": "another", "licence": "MIT"}
    (plan.work.folder / "recipe.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(SettingsError, match="licence MIT → None"):
        planned(tiny, data, tmp_path / "out")
