"""Adapters that come along: copied once, and only to the base that they are made for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.errors import Unavailable
from serve_app.expert.adapters import Registry
from serve_app.expert.shipped import seed
from tests.expert.releases import release

HERS: Any = SimpleNamespace(weights_sha256=lambda: "0" * 64)
OTHER: Any = SimpleNamespace(weights_sha256=lambda: "1" * 64)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    root = tmp_path / "shipped"
    release(root, "house", 1, contract="kind: regex\npattern: a+\n")
    Registry(str(root)).promote("house", 1, tolerance=1.0)
    return root


def test_a_shipped_adapter_serves_and_can_be_replaced(shipped: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "own")
    assert seed(shipped, root, HERS) == ["house"]
    own = Registry(root)
    own.fetch("house", 1, tmp_path / "fetched")
    assert own.contract("house", 1) == Registry(str(shipped)).contract("house", 1)
    release(tmp_path / "own", "house", 2)
    own.promote("house", 2, tolerance=1.0)
    assert seed(shipped, root, HERS) == []
    assert own.serving() == {"house": [2, 1]}


def test_a_copy_that_was_killed_is_made_again(shipped: Path, tmp_path: Path) -> None:
    half = tmp_path / "own" / "house" / "1"
    half.mkdir(parents=True)
    (half / "manifest.json").write_text(json.dumps({"half": "a file"}))
    assert seed(shipped, str(tmp_path / "own"), HERS) == ["house"]
    Registry(str(tmp_path / "own")).fetch("house", 1, tmp_path / "fetched")


def test_another_base_gets_none_of_it(shipped: Path, tmp_path: Path) -> None:
    assert seed(shipped, str(tmp_path / "own"), OTHER) == []
    assert not (tmp_path / "own").exists()


def test_a_registry_that_cannot_be_written_to_is_one_line(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="adapters cannot be copied in"):
        seed(shipped, str(tmp_path / "file" / "own"), HERS)
