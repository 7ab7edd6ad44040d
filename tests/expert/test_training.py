"""A tiny model really trained: on Ray Train by the command, killed, and brought to an end."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from serve_app.errors import SettingsError
from serve_app.expert import fit, memory, training
from serve_app.expert.adapters import Registry
from serve_app.expert.base import Base, find
from serve_app.expert.recipe import Hyperparameters
from serve_app.expert.work import Work
from serve_app.settings import load
from serve_app.storage import Store, fetched
from tests.cli.conftest import Run, run  # noqa: F401  # the fixture
from tests.conftest import ROOT
from tests.expert.conftest import row, save
from tests.s3 import S3

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.timeout(600)]

CHOSEN = Hyperparameters(rank=4, epochs=9, batch=2, max_tokens=96)
OPTIONS = "--rank 4 --epochs 9 --batch 2 --max-tokens 96 --workers 1 --save-every 2 --json".split()
# A process that trains as a worker of Ray Train does, and can be killed as one can.
ALONE = """
import pickle, sys
from pathlib import Path
from serve_app.expert import worker
worker.run({"job": pickle.loads(Path(sys.argv[1]).read_bytes())})
"""
STEPS = 27
WEIGHTS = "adapter_model.safetensors"
Data = tuple[Path, Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    rows = [row(f"What is {n} and {n}?", f"It is {2 * n}, surely.") for n in range(16)]
    return save(folder / "train.jsonl", rows[:12]), save(folder / "valid.jsonl", rows[12:])


@pytest.fixture(scope="module")
def whole(tiny: Path, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run left that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    plan = planned(tiny, data, folder / "whole")
    assert alone(plan, folder).wait() == 0
    return plan.work.adapter


def planned(tiny: Path, data: Data, output: Path) -> training.Plan:
    return training.plan(find(str(tiny), "tiny"), *data, output, CHOSEN, None)


def command(tiny: Path, data: Iterable[object], output: object, *more: str) -> list[str]:
    train, valid = map(str, data)
    own = ["--data", train, "--valid", valid, "--output", str(output), "--base", str(tiny)]
    return ["train", "expert", *own, *OPTIONS, *more]


def started(arguments: list[str]) -> subprocess.Popen[str]:
    """The real command under way: its Ray needs a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "serve_app.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def packed(plan: training.Plan, folder: Path) -> Path:
    """What a worker is given, as a file."""
    job = folder / f"{plan.output.name}.job"
    job.write_bytes(pickle.dumps(training._job(plan, training.Machine(1, "cpu", 2), None)))
    return job


def alone(plan: training.Plan, folder: Path) -> subprocess.Popen[str]:
    plan.work.folder.mkdir(exist_ok=True)
    record = json.dumps(plan.recipe.record())
    (plan.work.folder / "recipe.json").write_text(record, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-c", ALONE, str(packed(plan, folder))],
        stdout=subprocess.DEVNULL,
        text=True,
    )


def kill_after(step: int, reached: Callable[[], int], process: subprocess.Popen[str]) -> None:
    """SIGKILL to it and all it started, as soon as there is a checkpoint beyond a step."""
    parent, there = psutil.Process(process.pid), False
    while not there:
        assert process.poll() is None, process.communicate()
        family = [parent, *parent.children(recursive=True)]
        there = reached() > step
    # The workers first: one that outlives its driver trains on for a while.
    for each in reversed(family):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family[1:])
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert step < reached() < STEPS


def reached(work: Work) -> int:
    last = work.last_checkpoint()
    return int(last.name.rpartition("-")[2]) if last else 0


def losses(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_a_run_killed_twice_ends_as_one_that_was_not(
    tiny: Path, data: Data, whole: Path, tmp_path: Path
) -> None:
    killed = planned(tiny, data, tmp_path / "killed")
    kill_after(1, partial(reached, killed.work), alone(killed, tmp_path))
    kill_after(2, partial(reached, killed.work), alone(killed, tmp_path))
    last = started(command(tiny, data, killed.output))
    out, err = last.communicate()
    assert last.returncode == 0, err
    record = json.loads(out)
    assert record["steps"] == STEPS
    assert losses(killed.output) == losses(whole)
    assert (killed.output / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert record["losses"]["valid_after"] < record["losses"]["valid_before"]
    assert (killed.output / "losses.png").stat().st_size > 0
    assert not killed.work.folder.exists()


def test_a_run_in_a_bucket_is_finished_where_nothing_but_the_bucket_is(
    run: Run,  # noqa: F811
    s3: S3,
    tiny: Path,
    data: Data,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3.bucket("trained")
    store, output = Store("s3://trained"), "s3://trained/adapters/house"
    urls = [f"s3://trained/data/{path.name}" for path in data]
    for path in data:
        store.upload(path, f"data/{path.name}")
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path / "first"))
    kill_after(2, lambda: len(logged(store)), started(command(tiny, urls, output)))
    before = logged(store)

    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path / "second"))
    second = started(command(tiny, urls, output))
    _, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    adapter = fetched(output, tmp_path)
    assert losses(adapter) == losses(whole)
    assert (adapter / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    lines = (adapter / "losses.jsonl").read_text(encoding="utf-8").splitlines()
    took = [json.loads(line)["seconds"] for line in lines]
    assert took[: len(before)] == before  # it went on, and did not begin anew
    assert store.files("adapters/.house.work") == []
    assert "finished already" in run(*command(tiny, urls, output)).err

    scores = tmp_path / "scores.json"
    measured = {"validation": 1, "canary": 1}
    scores.write_text(json.dumps({"before": measured, "after": measured}), encoding="utf-8")
    registry = ["--registry", "s3://trained/registry"]
    own = [output, "--base", str(tiny), "--scores", str(scores)]
    added = run("adapters", "add", "house", *own, *registry)
    assert added.code == 0, added.err
    assert run("adapters", "promote", "house", "1", "--wait", "0", *registry).code == 0
    assert Registry("s3://trained/registry").serving() == {"house": [1]}


def logged(store: Store) -> list[float]:
    """Seconds of each entry in the log of the last checkpoint that Ray Train counts."""
    work = "adapters/.house.work/run"
    try:
        kept = json.loads(store.read(f"{work}/checkpoint_manager_snapshot.json"))
        name = kept["latest_checkpoint_result"]["checkpoint_dir_name"]
        state = json.loads(store.read(f"{work}/{name}/trainer_state.json"))
    except (FileNotFoundError, TypeError):
        return []
    return [entry["seconds"] for entry in state["log_history"]]


def test_training_goes_on_from_an_adapter(
    tiny: Path, data: Data, whole: Path, tmp_path: Path
) -> None:
    first = shutil.copytree(whole, tmp_path / "first")
    record = planned(tiny, data, tmp_path / "whole").recipe.record()
    (first / "recipe.json").write_text(json.dumps(record), encoding="utf-8")
    process = started(command(tiny, data, tmp_path / "second", "--from", str(first)))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    second = json.loads(out)
    *_, reached = [entry["valid_loss"] for entry in losses(whole) if "valid_loss" in entry]
    assert second["losses"]["valid_before"] == pytest.approx(reached)
    assert second["losses"]["valid_after"] < second["losses"]["valid_before"]
    assert len(second["start"]) == 64


def test_a_disk_that_fills_up_within_a_checkpoint_costs_no_earlier_one(
    tiny: Path, data: Data, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    job = packed(planned(tiny, data, small / "out"), tmp_path)
    # A file system of its own, which only the shell and its children see: it has room for one
    # checkpoint and not for two, and a new one is complete before an old one goes.
    script = f"""
        mount -t tmpfs -o size=280k none {small} || exit 77
        mkdir {small}/.out.work
        "$@" > /dev/null; echo "exit $?"
        ls {small}/.out.work/checkpoints
        mount -o remount,size=8m {small}
        "$@" > /dev/null; echo "exit $?"
        ls {small}/.out.work/adapter
    """
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    done = subprocess.run(
        [*namespace, sys.executable, "-c", ALONE, str(job)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this machine lets nobody mount a file system")
    full, freed = done.stdout.split("exit ")[1:]
    assert full.split() == ["1", "checkpoint-2"], done.stderr
    assert freed.split()[0] == "0", done.stderr
    assert WEIGHTS in freed
    reason = done.stderr.strip().splitlines()[-1]
    assert "the checkpoint of step 4 cannot be written" in reason
    assert "No space left on device" in reason
    assert "the same command goes on from checkpoint-2" in reason


def test_a_dry_run_counts_and_writes_nothing(
    run: Run,  # noqa: F811
    tiny: Path,
    data: Data,
    tmp_path: Path,
) -> None:
    before = set(tmp_path.iterdir())
    counted = json.loads(run(*command(tiny, data, tmp_path / "new"), "--dry-run").out)
    assert counted["train"]["rows"] == 12
    assert counted["estimated_seconds"] > 0
    assert counted["estimated_bytes"] > sum(
        path.stat().st_size for path in tiny.glob("*.safetensors")
    )
    assert set(tmp_path.iterdir()) == before


EIGHT_B = {"hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 128256}


@pytest.fixture
def eight_b(tmp_path: Path) -> Path:
    """The shapes of an 8B Llama 3 in a file without contents."""
    wide, narrow = 14336, 1024
    layer = {
        "self_attn.q_proj": [4096, 4096],
        "self_attn.k_proj": [narrow, 4096],
        "self_attn.v_proj": [narrow, 4096],
        "self_attn.o_proj": [4096, 4096],
        "mlp.gate_proj": [wide, 4096],
        "mlp.up_proj": [wide, 4096],
        "mlp.down_proj": [4096, wide],
    }
    shapes = {f"model.layers.{n}.{name}.weight": s for n in range(32) for name, s in layer.items()}
    shapes |= {f"{name}.weight": [128256, 4096] for name in ("model.embed_tokens", "lm_head")}
    header, end = {}, 0
    for name, (high, low) in shapes.items():
        begin, end = end, end + 2 * high * low
        header[name] = {"dtype": "BF16", "shape": [high, low], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    folder = tmp_path / "eight"
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # no block of it is written
    (folder / "config.json").write_text(json.dumps(EIGHT_B))
    return folder


def test_memory_of_an_8b_base_is_told_without_reading_it(eight_b: Path) -> None:
    """What QLoRA's and PEFT's own users report: 24 GB hold it in 4 bits, 80 GB in 16."""

    def gigabytes(*, four_bit: bool, checkpointing: bool) -> float:
        chosen = Hyperparameters(max_tokens=2048, four_bit=four_bit)
        needed = memory.of_training(eight_b, chosen, checkpointing=checkpointing, width=2)
        return needed.total / 1e9

    assert 8 < gigabytes(four_bit=True, checkpointing=True) < 16
    assert 18 < gigabytes(four_bit=False, checkpointing=True) < 26
    assert 26 < gigabytes(four_bit=False, checkpointing=False) < 40


def test_a_dry_run_of_an_8b_base_does_not_run_it_on_a_cpu(
    tiny: Path, data: Data, eight_b: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(_: Any) -> float:
        raise AssertionError("16 GB were read for the sake of a number")

    monkeypatch.setattr("serve_app.expert.worker.seconds_per_pack", ran)
    plan = replace(planned(tiny, data, tmp_path / "out"), base=Base("eight", eight_b))
    assert training.seconds(plan, training.Machine(1, "cpu", 25)) is None


def test_activations_that_are_not_kept_change_no_loss(
    tiny: Path, data: Data, tmp_path: Path
) -> None:
    from serve_app.expert import worker

    found = []
    for checkpointing in (False, True):
        chosen = replace(CHOSEN, epochs=1)
        output = tmp_path / f"{checkpointing}"
        plan = training.plan(find(str(tiny), "tiny"), *data, output, chosen, None)
        plan.work.folder.mkdir()
        worker.run(
            {"job": training._job(plan, training.Machine(1, "cpu", 50, checkpointing), None)}
        )
        found.append(losses(plan.work.adapter))
    # Computed again on the same numbers: as good as equal.
    for kept, again in zip(*found, strict=True):
        assert kept == pytest.approx(again, rel=1e-3)


BAD: dict[str, tuple[list[str], str]] = {
    "a base that is not there": (["--base", "nowhere"], "there is no such folder"),
    "an adapter that is not there": (["--from", "nowhere"], "there is no such folder"),
    "a batch nobody can share": (["--batch", "3", "--workers", "2"], "a multiple can"),
    "4 bits without a GPU": (["--four-bit"], "a base in 4 bits needs a GPU"),
    "a folder that is not there": (["--output", "nowhere/new"], "no such folder to write new to"),
}


@pytest.mark.parametrize(("options", "reason"), BAD.values(), ids=BAD)
def test_bad_options_are_one_line(
    run: Run,  # noqa: F811
    tiny: Path,
    data: Data,
    tmp_path: Path,
    options: list[str],
    reason: str,
) -> None:
    done = run(*command(tiny, data, tmp_path / "new"), *options)
    assert done.code == 2
    assert reason in done.err
    assert done.err.count("\n") == 1


def test_another_recipe_is_not_mixed_in(tiny: Path, data: Data, tmp_path: Path) -> None:
    plan = planned(tiny, data, tmp_path / "out")
    plan.work.folder.mkdir()
    other = {**plan.recipe.record(), "id": "another", "licence": "MIT"}
    (plan.work.folder / "recipe.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(SettingsError, match="licence MIT → None"):
        planned(tiny, data, tmp_path / "out")


def test_on_gpus_only_the_machine_differs(
    tiny: Path, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of eight GPUs, resolved to what Ray Train and transformers are given."""
    from serve_app.expert import worker

    path = tmp_path / "gpus.yaml"
    path.write_text("expert: {accelerator: gpu, training_workers: 8}", encoding="utf-8")
    expert = load(path).expert
    plan = training.plan(
        find(str(tiny), "tiny"), *data, tmp_path / "out", Hyperparameters(batch=16), None
    )
    machines = (
        training.Machine(1, "cpu", 25),
        training.Machine(expert.training_workers, expert.accelerator, 25),
    )
    here, there = map(fit.scaling, machines)
    assert (here.num_workers, here.use_gpu) == (1, False)
    assert (there.num_workers, there.use_gpu) == (8, True)
    assert there._resources_per_worker_not_none == {"GPU": 1}
    made = []
    for machine in machines:
        job = training._job(plan, machine, None)
        # Transformers looks for a GPU that can bf16, and this machine has none.
        monkeypatch.setattr(worker, "TrainingArguments", dict)
        made.append(dict(worker._arguments(job, plan.work, resuming=False)))
    changed: dict[str, Any] = {k: (v, made[1][k]) for k, v in made[0].items() if v != made[1][k]}
    changed.pop("bf16", None)
    # A CPU has it too, where it has tiles for it.
    assert [each["bf16"] for each in made] == [torch.cpu._is_amx_tile_supported(), True]
    assert changed == {
        "gradient_accumulation_steps": (16, 2),
        "use_cpu": (True, False),
        "dataloader_pin_memory": (False, True),
    }
