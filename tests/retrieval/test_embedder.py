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
from serve_app.retrieval.embedder import (
    Model,
    SentenceEmbedder,
    Tokens,
    check_window,
    dimension,
)
from serve_app.settings import EmbeddingSettings, RetrievalSettings

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
        def __init__(self, model: Model) -> None:
            seen.append(model.files)
            super().__init__(model)

    monkeypatch.setattr(embedder, "SentenceEmbedder", Watched)
    return seen


def test_a_models_files_tell_its_dimension(loaded: list[str]) -> None:
    assert dimension(Model(SHIPPED)) == 384
    assert loaded == []
    assert len(SentenceEmbedder(Model(SHIPPED))(["a tent"])[0]) == 384


def test_a_model_whose_files_do_not_tell_is_loaded(model: Path, loaded: list[str]) -> None:
    pooling = model / "1_Pooling" / "config.json"
    both = json.loads(pooling.read_text()) | {"pooling_mode_cls_token": True}
    pooling.write_text(json.dumps(both))
    assert dimension(Model(str(model))) == 768
    assert loaded == [str(model)]


def test_a_model_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises((SettingsError, OSError, ValueError), match="nowhere"):
        dimension(Model(str(tmp_path / "nowhere")))


def test_tokens_are_counted_right_while_others_embed() -> None:
    model = SentenceEmbedder(Model(SHIPPED))
    long = "tent " * 3000
    with ThreadPoolExecutor(4) as pool:
        jobs = [(pool.submit(model, ["tent"]), pool.submit(model.count, long)) for _ in range(60)]
        assert {len(embedded.result()[0]) for embedded, _ in jobs} == {384}
        assert {counted.result() for _, counted in jobs} == {3000}


def test_counting_leaves_alone_what_embedding_has_set() -> None:
    """Where threads meet in between, one of them is wrong; seldom, so that it is looked at here."""
    model = SentenceEmbedder(Model(SHIPPED))
    backend = model._model.tokenizer.backend_tokenizer
    set_at_first = (backend.truncation, backend.padding)
    assert set_at_first[0]["max_length"] == 256
    model.count("tent")
    assert (backend.truncation, backend.padding) == set_at_first
    model(["tent " * 300, "tent"])
    assert (backend.truncation, backend.padding) == set_at_first


def test_files_alone_tell_what_a_model_tells(model: Path) -> None:
    files, loaded = Tokens(model), SentenceEmbedder(Model(str(model)))
    assert files.window == loaded.window == 254  # 256 with the marks of the ends
    (model / "sentence_bert_config.json").write_text("{}")
    assert Tokens(model).window == 510


def test_prompts_stand_before_queries_and_passages(model: Path) -> None:
    plain = SentenceEmbedder(Model(str(model)))
    told = SentenceEmbedder(Model(str(model), "query: ", "passage: "))
    assert told(["tents"]) == plain(["passage: tents"])
    assert told.queries(["tents"]) == plain(["query: tents"])
    assert told.beside("tents", ["huts"]) == plain(["query: tents", "passage: huts"])
    assert told.window == plain.window - 2  # type: ignore[operator]
    files = {"prompts": {"query": "query: ", "document": "passage: "}}
    (model / "config_sentence_transformers.json").write_text(json.dumps(files))
    assert SentenceEmbedder(Model(str(model)))(["tents"]) == told(["tents"])
    # One's own goes before what the files say.
    assert SentenceEmbedder(Model(str(model), "", ""))(["tents"]) == plain(["tents"])


def test_vectors_may_be_cut() -> None:
    cut = Model(SHIPPED, dimension=64)
    assert dimension(cut) == 64
    ((*vector,),) = SentenceEmbedder(cut)(["tents"])
    assert len(vector) == 64
    assert sum(each * each for each in vector) == pytest.approx(1)


def test_a_collection_knows_its_model_with_all_that_changes_its_vectors() -> None:
    plain = RetrievalSettings(embedding_model="e5")
    own = EmbeddingSettings(query_prompt="query: ", passage_prompt="passage: ", dimension=64)
    assert plain.embedding_name == "e5"
    name = plain.model_copy(update={"embedding": own}).embedding_name
    assert Model.named(name, {"e5": "/models/e5"}) == Model(
        "/models/e5", "query: ", "passage: ", 64
    )
    assert Model.named("e5", {}) == Model("e5")
    for odd in ("e5?dimension=many", "e5?colour=red"):
        with pytest.raises(SettingsError, match="no embedding model's name"):
            Model.named(odd, {})


def test_chunks_larger_than_the_window_are_refused_by_name() -> None:
    check_window(254, "m", 254)
    check_window(8192, "m", None)
    with pytest.raises(SettingsError, match=r"retrieval.chunk_tokens .* is 255, .* 'm' reads 254"):
        check_window(255, "m", 254)
