"""`trivium collections …`, on a base that is damaged by hand."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from loadtest.words import Models
from serve_app.domain import Document
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore
from tests.cli.conftest import Run

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path))
    return tmp_path


async def filled(state: Path, *, lacking: str = "") -> None:
    """Three documents of two tenants; of one of them a row is taken away."""
    store = MilvusStore(str(state / "milvus.db"), "", timeout_s=20)
    registry = Registry(str(state / "milvus.registry.db"))
    retriever = Retriever(store, registry, Models(), 40, Rules())
    await retriever.ingest("docs", "red", [Document("a", "", "one"), Document("b", "", "two")])
    await retriever.ingest("docs", "blue", [Document("a", "", "three")])
    for place in await store.places("docs__1", [("red", lacking)]):
        await store.remove("docs__1", [place.id])
    await store.close()
    await registry.close()


def test_what_is_wrong_is_named_mended_and_told_by_the_exit_code(run: Run, state: Path) -> None:
    asyncio.run(filled(state, lacking="b"))
    done = run("collections", "check")
    assert done.code == 1, done.err
    assert "1 missing" in done.out
    assert "missing red/b docs__1" in done.err
    done = run("collections", "check", "docs", "--repair", "--json")
    assert done.code == 1, done.err
    (report,) = json.loads(done.out)
    assert (report["counts"], report["lost"], report["sound"]) == ({"missing": 1}, ["b"], False)
    done = run("collections", "check")
    assert (done.code, "all of 2 rows" in done.out) == (0, True), done.err


def test_collections_are_listed_and_deleted(run: Run, state: Path) -> None:
    asyncio.run(filled(state))
    (found,) = json.loads(run("collections", "list", "--json").out)
    assert (found["name"], found["owner"], found["index"]) == ("docs", "red", "docs__1")
    assert (found["documents"], found["chunks"]) == ({"in": 3}, 3)
    index = {"type": "AUTOINDEX", "reason": "set by retrieval.vector_index"}
    assert found["vector_index"] == index
    told = run("collections", "list").out
    assert "docs" in told
    assert "AUTOINDEX" in told
    assert "nothing to drop" in run("collections", "prune").out
    done = run("collections", "delete", "docs", "--yes")
    assert (done.code, done.out) == (0, "docs is gone, with 3 documents\n"), done.err
    assert json.loads(run("collections", "list", "--json").out) == []
    for command in ("check", "delete"):
        done = run("collections", command, "docs", *(["--yes"] if command == "delete" else []))
        assert done.code == 2
        assert "there is no collection 'docs'" in done.err


def test_a_reindex_into_chunks_that_the_model_cuts_off_is_refused(run: Run, state: Path) -> None:
    asyncio.run(filled(state))
    refused = run("reindex", "-c", "docs", "--chunk-tokens", "512")
    assert refused.code == 2
    assert "--chunk-tokens" in refused.err
    assert "254 at most" in refused.err
    assert [each["index"] for each in json.loads(run("collections", "list", "--json").out)] == [
        "docs__1"
    ]


def test_documents_that_the_settings_place_elsewhere_are_named_and_erased(
    run: Run, state: Path
) -> None:
    asyncio.run(filled(state))
    settings = state / "tiers.yaml"
    settings.write_text("retrieval: {tenancy: {classes: {gold: [red]}}}", encoding="utf-8")
    config = ("--config", str(settings))
    note = state / "note.md"
    note.write_text("Tents sleep two.", encoding="utf-8")
    done = run("ingest", str(note), "--collection", "docs", "--tenant", "red", *config)
    assert done.code == 0, done.err
    listed = {each["name"]: each for each in json.loads(run("collections", "list", "--json").out)}
    assert (listed["docs"]["chunks"], listed["docs@gold"]["chunks"]) == (3, 1)
    told = run("collections", "list", *config)
    assert "docs: documents of red are not looked for here" in told.err
    done = run("collections", "delete", "docs", "--tenant", "red", "--yes", *config)
    assert (done.code, done.out) == (0, "2 documents of red are gone from docs\n"), done.err
    assert "not looked for" not in run("collections", "list", *config).err
    left = {e["name"]: e["documents"] for e in json.loads(run("collections", "list", "--json").out)}
    assert left["docs@gold"] == {"in": 1}
    assert left["docs"]["in"] == 1
    assert run("collections", "check", *config).code == 0
    assert run("collections", "delete", "docs@gold", "--yes", *config).code == 0
