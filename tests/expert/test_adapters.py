"""Adapters as releases: what is let in, what may serve, and the way back. By the commands."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from serve_app.errors import InvalidRequest, NotFound, SettingsError, Unavailable
from serve_app.expert.adapters import Registry, gate
from serve_app.expert.admission import Limits, admit
from serve_app.expert.base import Base, find
from tests.cli.conftest import Outcome, Run, run  # noqa: F401  # the fixture

pytestmark = pytest.mark.usefixtures("clean_environment")

WEIGHTS = "adapter_model.safetensors"
GOOD = {"validation": 0.8, "canary": 1.0}
BASE = {"validation": 0.1, "canary": 0.2}


@pytest.fixture(scope="session")
def base(tiny: Path) -> Base:
    return find(str(tiny), "tiny")


@pytest.fixture
def folder(base: Base, tmp_path: Path) -> Path:
    """What a training leaves."""
    folder = tmp_path / "house"
    folder.mkdir()
    save_file({"layers.0.lora_A.weight": np.ones((4, 8), np.float32)}, folder / WEIGHTS)
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    record = {
        "base": {"name": "tiny", "weights_sha256": base.weights_sha256()},
        "train": {"sha256": "ab" * 32, "rows": 24},
        "licence": "MIT",
    }
    (folder / "recipe.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def change(path: Path, **values: Any) -> None:
    known = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**known, **values}), encoding="utf-8")


def half(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) - 8])


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def disguised(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\x80\x04\x95cos\nsystem\n")


def of_other_weights(folder: Path) -> None:
    change(folder / "recipe.json", base={"name": "x", "weights_sha256": "cd" * 32})


def high(folder: Path) -> None:
    change(folder / "adapter_config.json", rank_pattern={"q_proj": 128})


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half copied": (half, "is corrupt"),
    "pickled": (pickled, "pickled weights can run code"),
    "pickled under another name": (disguised, "is corrupt"),
    "of another base": (of_other_weights, "trained on weights cdcdcdcdcdcd and tiny's are"),
    "of a high rank": (high, "its rank is 128, above 64"),
    "not finite": (
        lambda folder: save_file({"lora_A": np.full(3, np.nan, np.float32)}, folder / WEIGHTS),
        "lora_A holds numbers that are not finite",
    ),
    "too big": (lambda folder: (folder / "x").write_bytes(bytes(60_000)), "more than the 50,000"),
    "without a recipe": (
        lambda folder: (folder / "recipe.json").unlink(),
        "recipe.json is missing",
    ),
    "no LoRA": (
        lambda folder: change(folder / "adapter_config.json", peft_type="IA3"),
        "serves LoRA alone",
    ),
    "without a rank": (
        lambda folder: change(folder / "adapter_config.json", r="many"),
        "no rank `r`",
    ),
    "not there": (shutil.rmtree, "there is no such folder"),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD.values(), ids=BAD)
def test_a_bad_folder_is_refused_in_one_line_and_what_serves_stays(
    folder: Path, base: Base, tmp_path: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    registry = Registry(str(tmp_path / "registry"))
    registry.add("house", admit(folder, base, Limits()), {"before": BASE, "after": GOOD})
    registry.promote("house", 1, 0.0)
    spoil(folder)
    with pytest.raises(SettingsError, match=reason) as caught:
        admit(folder, base, Limits(size=50_000))
    assert "\n" not in str(caught.value)
    assert registry.versions("house") == [1]
    assert registry.current("house")["version"] == 1


def test_a_release_holds_what_it_was_made_from(folder: Path, base: Base, tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    scores = {"before": BASE, "after": GOOD}
    registry.add("house", admit(folder, base, Limits()), scores, ("schema.json", b"{}"))
    found = registry.manifest("house", 1)
    place = tmp_path / "registry" / "house" / "1"
    assert found["base"] == {"name": "tiny", "weights_sha256": base.weights_sha256()}
    assert found["data"]["train"] == "ab" * 32
    assert (found["scores"], found["licence"], found["rank"]) == (scores, "MIT", 4)
    assert found["contract"] == "schema.json"
    assert (place / "schema.json").read_bytes() == b"{}"
    for name, digest in found["files"].items():
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == digest


def test_a_release_that_cannot_be_written_leaves_nothing(
    folder: Path, base: Base, tmp_path: Path
) -> None:
    candidate = admit(folder, base, Limits())
    registry = Registry(str(tmp_path / "registry"))
    registry.add("house", candidate, {"before": BASE, "after": GOOD})
    (folder / "recipe.json").unlink()
    with pytest.raises(Unavailable, match="house version 2 was not added"):
        registry.add("house", candidate, {})
    assert registry.versions("house") == [1]
    assert not (tmp_path / "registry" / "house" / "2").exists()


def test_releases_live_on_any_file_system(folder: Path, base: Base) -> None:
    registry = Registry(f"memory://registry-{folder.parent.name}")
    candidate = admit(folder, base, Limits())
    for _ in range(2):
        registry.add("house", candidate, {"before": BASE, "after": GOOD})
    assert (registry.names(), registry.versions("house")) == (["house"], [1, 2])
    registry.promote("house", 1, 0.0)
    registry.promote("house", 2, 0.0)
    assert registry.rollback("house")["to"] == 1
    assert registry.current("house")["version"] == 1
    assert registry.rollback("house")["to"] is None
    assert (registry.current("house")["version"], registry.serving()) == (None, {})
    with pytest.raises(NotFound, match="nothing was changed"):
        registry.rollback("house")
    registry.promote("house", 2, 0.0)
    assert registry.serving() == {"house": [2, 1]}
    with pytest.raises(NotFound, match="has no version 3; there are: 1, 2"):
        registry.promote("house", 3, 0.0)


REFUSED: dict[str, tuple[dict[str, float], dict[str, float], float, str]] = {
    "falls on the canary set": (
        GOOD, {"validation": 0.9, "canary": 0.75}, 0.0,
        r"canary falls by 0\.25 \(1 → 0\.75\); the tolerance is 0$",
    ),
    "falls on both": (
        GOOD, {"validation": 0.7, "canary": 0.9}, 0.05,
        r"canary falls by 0\.1 .*; validation falls by 0\.1 ",
    ),
    "no canary": (GOOD, {"validation": 0.9}, 0.0, "it has no score on the canary set"),
    "the base was not measured": (
        {}, GOOD, 0.0, "what serves now has no score on the validation and canary set"
    ),
    "a measure was left out": (
        {**GOOD, "canary_format": 1.0}, GOOD, 0.0, "not measured on canary_format"
    ),
    "no number": (GOOD, {"validation": float("nan"), "canary": 1.0}, 0.0, "validation falls by"),
}  # fmt: skip


@pytest.mark.parametrize(("now", "then", "tolerance", "reason"), REFUSED.values(), ids=REFUSED)
def test_the_gate_says_by_how_much(
    now: dict[str, float], then: dict[str, float], tolerance: float, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        gate("house version 2", now, then, tolerance)


def test_from_a_folder_to_traffic_and_back_by_the_commands(
    run: Run,  # noqa: F811
    folder: Path,
    tiny: Path,
    tmp_path: Path,
) -> None:
    root = tmp_path / "registry"

    def trivium(*arguments: str) -> Outcome:
        asks = ["--wait", "0"] if arguments[0] in ("promote", "rollback") else []
        return run("adapters", *arguments, *asks, "--registry", str(root))

    def added(after: dict[str, float]) -> Outcome:
        scores = tmp_path / "scores.json"
        scores.write_text(json.dumps({"before": BASE, "after": after}), encoding="utf-8")
        own = ("--base", str(tiny), "--scores", str(scores))
        return trivium("add", "house", str(folder), *own)

    assert "house version 1 added" in added(GOOD).out
    assert added({"validation": 0.7, "canary": 1.0}).code == 0
    assert added({"validation": 0.9, "canary": 1.0}).code == 0
    tried = json.loads(trivium("promote", "house", "1", "--dry-run", "--json").out)
    assert (tried["from"], tried["to"], tried["dry_run"]) == (None, 1, True)
    assert json.loads(trivium("list", "--json").out) == [
        {"name": "house", "versions": [1, 2, 3], "current": None}
    ]
    assert "house version 1 is promoted (before: the base)" in trivium("promote", "house", "1").out
    refused = trivium("promote", "house", "2")
    assert refused.code == 2
    assert "validation falls by 0.1 (0.8 → 0.7)" in refused.err
    assert trivium("promote", "house", "2", "--tolerance", "0.2", "--dry-run").code == 0
    done = trivium("promote", "house", "3").out
    assert "validation 0.8 → 0.9" in done
    would = trivium("rollback", "house", "--dry-run").out
    assert "house version 1 would serve" in would
    assert "3 (serves)" in trivium("show", "house").out
    assert trivium("rollback", "house").code == 0
    shown = json.loads(trivium("show", "house", "--json").out)
    assert shown["version"] == 1
    assert [e["action"] for e in shown["history"]] == ["promote", "promote", "rollback"]
    assert shown["versions"][2]["scores"]["after"]["validation"] == 0.9
    missing = trivium("show", "hose")
    assert missing.code == 2
    assert "hose" in missing.err
    assert "house" in missing.err
