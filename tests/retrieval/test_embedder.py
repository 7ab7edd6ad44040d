"""What is known of an embedding model: its vectors, its tokens, how much it reads."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serve_app import models
from serve_app.errors import SettingsError
from serve_app.retrieval import embedder
from serve_app.retrieval.embedder import SentenceEmbedder, Tokens, check_window, dimension

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


def test_tokens_are_counted_right_while_others_embed() -> None:
    model = SentenceEmbedder(SHIPPED)
    long = "tent " * 3000
    with ThreadPoolExecutor(4) as pool:
        jobs = [(pool.submit(model, ["tent"]), pool.submit(model.count, long)) for _ in range(60)]
        assert {len(embedded.result()[0]) for embedded, _ in jobs} == {384}
        assert {counted.result() for _, counted in jobs} == {3000}


def test_counting_leaves_alone_what_embedding_has_set() -> None:
    """Where threads meet in between, one of them is wrong; seldom, so that it is looked at here."""
    model = SentenceEmbedder(SHIPPED)
    backend = model._model.tokenizer.backend_tokenizer
    set_at_first = (backend.truncation, backend.padding)
    assert set_at_first[0]["max_length"] == 256
    model.count("tent")
    assert (backend.truncation, backend.padding) == set_at_first
    model(["tent " * 300, "tent"])
    assert (backend.truncation, backend.padding) == set_at_first


def test_files_alone_tell_what_a_model_tells(model: Path) -> None:
    files, loaded = Tokens(model), SentenceEmbedder(model)
    assert files.window == loaded.window == 254  # 256 with the marks of the ends
    (model / "sentence_bert_config.json").write_text("{}")
    assert Tokens(model).window == 510


def test_chunks_larger_than_the_window_are_refused_by_name() -> None:
    check_window(254, "m", 254)
    check_window(8192, "m", None)
    with pytest.raises(SettingsError, match=r"retrieval.chunk_tokens .* is 255, .* 'm' reads 254"):
        check_window(255, "m", 254)
