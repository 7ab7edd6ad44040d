"""How long an embedding model's vectors are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from serve_app import models
from serve_app.errors import SettingsError
from serve_app.retrieval import embedder
from serve_app.retrieval.embedder import SentenceEmbedder, dimension

(SHIPPED,) = models.embedding_models().values()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy that tests may alter."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "model"))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models that were loaded."""
    seen: list[str] = []

    class Watched(SentenceEmbedder):
        def __init__(self, path: str | Path) -> None:
            seen.append(str(path))
            super().__init__(path)

    monkeypatch.setattr(embedder, "SentenceEmbedder", Watched)
    return seen


def test_a_models_files_tell_its_dimension(loaded: list[str]) -> None:
    assert dimension(SHIPPED) == 384
    assert loaded == []
    assert len(SentenceEmbedder(SHIPPED)(["a tent"])[0]) == 384


def test_a_model_whose_files_do_not_tell_is_loaded(model: Path, loaded: list[str]) -> None:
    pooling = model / "1_Pooling" / "config.json"
    both = json.loads(pooling.read_text()) | {"pooling_mode_cls_token": True}
    pooling.write_text(json.dumps(both))
    assert dimension(str(model)) == 768
    assert loaded == [str(model)]


def test_a_model_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises((SettingsError, OSError, ValueError), match="nowhere"):
        dimension(str(tmp_path / "nowhere"))
