"""What a replica takes from the registry, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serve_app.domain import Release
from serve_app.errors import AdapterUnusable
from serve_app.expert.adapters import Registry
from serve_app.expert.base import Base
from serve_app.expert.loading import Shelf
from tests.expert.releases import release

HOUSE = Release("house", 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def shelf(root: Path, base: Base | None = None, max_rank: int = 16) -> Shelf:
    return Shelf(Registry(str(root)), root.parent / "cache", base, max_rank)


def test_release_is_fetched_once_and_kept_when_its_store_is_gone(root: Path) -> None:
    folder = release(root, "house", 1)
    first = shelf(root)
    taken = first.take(HOUSE)
    weights = (taken / "adapter_model.safetensors").read_bytes()
    assert weights == (folder / "adapter_model.safetensors").read_bytes()
    assert shelf(root).take(HOUSE) == taken
    assert [path.name for path in (root.parent / "cache").iterdir()] == [taken.name]


def test_version_that_was_made_again_is_another_one(root: Path) -> None:
    release(root, "house", 1)
    before = shelf(root).take(HOUSE)
    shutil.rmtree(root / "house" / "1")
    release(root, "house", 1, config={"r": 4})
    assert shelf(root).take(HOUSE) != before


def test_damaged_release_is_refused_and_leaves_nothing_behind(root: Path) -> None:
    folder = release(root, "house", 1)
    (folder / "adapter_model.safetensors").write_bytes(b"not what it was")
    with pytest.raises(AdapterUnusable, match="not what was released"):
        shelf(root).take(HOUSE)
    assert list((root.parent / "cache").iterdir()) == []


def test_release_that_is_not_there_is_refused(root: Path) -> None:
    with pytest.raises(AdapterUnusable, match="no adapter house"):
        shelf(root).take(HOUSE)


def test_rank_above_the_engines_is_refused_by_the_settings_name(root: Path) -> None:
    release(root, "house", 1, config={"r": 32})
    with pytest.raises(AdapterUnusable, match=r"rank 32; expert\.lora\.max_lora_rank is 16"):
        shelf(root).take(HOUSE)


def test_pickled_weights_are_refused(root: Path) -> None:
    folder = release(root, "house", 1)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(".safetensors", ".bin"))
    with pytest.raises(AdapterUnusable, match=r"has no adapter_model\.safetensors"):
        shelf(root).take(HOUSE)


def test_release_of_another_base_is_refused(root: Path, tmp_path: Path) -> None:
    weights = tmp_path / "base" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    base = Base("small", weights.parent)
    release(root, "house", 1)
    with pytest.raises(AdapterUnusable, match="was trained on smollm2-135m-instruct"):
        shelf(root, base).take(HOUSE)
    release(root, "house", 2, base={"name": "small", "weights_sha256": base.weights_sha256()})
    assert shelf(root, base).take(Release("house", 2)).is_dir()
