"""What a registry gives to those who serve from it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import NotFound, Unavailable
from serve_app.expert.adapters import Registry
from tests.expert.releases import release


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def test_what_serves_comes_with_what_served_before_latest_first(root: Path) -> None:
    for version in (1, 2, 3):
        release(root, "house", version)
    release(root, "draft", 1)
    registry = Registry(str(root))
    assert registry.serving() == {}
    for version in (1, 2, 3):
        promote(root, "house", version)
    assert registry.serving() == {"house": [3, 2, 1]}
    registry.rollback("house")
    assert registry.serving() == {"house": [2, 3, 1]}


def promote(root: Path, name: str, version: int) -> None:
    Registry(str(root)).promote(name, version, tolerance=1.0)


def test_fetched_files_are_those_released(root: Path, tmp_path: Path) -> None:
    release(root, "house", 1, contract="kind: regex\npattern: a+\n")
    registry = Registry(root.as_uri())
    manifest = registry.fetch("house", 1, tmp_path / "here")
    for file, digest in manifest["files"].items():
        content = (tmp_path / "here" / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    assert registry.contract("house", 1) == ("contract.yaml", b"kind: regex\npattern: a+\n")


def _rewrite(root: Path, **changes: Any) -> None:
    path = root / "house" / "1" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("damage", ["changed", "missing", "outside"])
def test_damaged_release_is_refused_and_says_how(root: Path, tmp_path: Path, damage: str) -> None:
    release(root, "house", 1)
    weights = root / "house" / "1" / "adapter_model.safetensors"
    match damage:
        case "changed":
            weights.write_bytes(weights.read_bytes()[:-1] + b"x")
            hint = "not what was released"
        case "missing":
            weights.unlink()
            hint = "is missing"
        case "outside":
            _rewrite(root, files={"../../../etc/passwd": "0"})
            hint = "lies outside"
    with pytest.raises(Unavailable, match=hint):
        Registry(str(root)).fetch("house", 1, tmp_path / "here")


def test_version_that_is_not_there_is_not_found(root: Path, tmp_path: Path) -> None:
    release(root, "house", 1)
    with pytest.raises(NotFound, match="no version 2; there are: 1"):
        Registry(str(root)).fetch("house", 2, tmp_path / "here")
