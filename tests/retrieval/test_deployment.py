"""What the retriever's deployment adds to the retriever, without Ray."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from serve_app import models
from serve_app.domain import Document, RequestContext, SearchQuery
from serve_app.errors import InvalidRequest, NotFound, SettingsError
from serve_app.handles import Remote
from serve_app.retrieval.deployment import RetrieverServer
from serve_app.retrieval.index import Row
from serve_app.retrieval.port import PATIENCE_S, Port, RemoteStore
from tests.fixtures import context

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def server(folder: Path, **more: str | int) -> RetrieverServer:
    store = {"milvus_uri": str(folder / "milvus.db"), **more}
    return RetrieverServer({"retrieval": store}, models.embedding_models(), None)


async def test_others_reach_the_store_by_its_port_alone_and_in_time(tmp_path: Path) -> None:
    made = server(tmp_path)
    index = await made.on_store(context(), "ensure", "docs", "m", 8, 32)
    assert await made.on_store(context(), "known", index) == {}
    for method in ("close", "drop", "documents", "_client", "__class__"):
        with pytest.raises(InvalidRequest, match="not for others"):
            await made.on_store(context(), method)
    with pytest.raises(TimeoutError):
        await made.on_store(RequestContext("late", time.time() - 1), "known", index)


async def test_chunks_that_the_model_would_cut_off_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"retrieval.chunk_tokens .*all-MiniLM-L6-v2"):
        server(tmp_path, chunk_tokens=255)
    made = server(tmp_path)
    await made.reconfigure({"retrieval": {"chunk_tokens": 64}})
    await made.reconfigure({"retrieval": {"chunk_tokens": 512}})
    await made.ingest(context(), "docs", [Document("d", "", "word " * 100)])
    assert len(await made.document(context(), "docs", "d")) == 2  # the last good ones


class Handle:
    """Stands where a Serve handle on the deployment would."""

    def __init__(self, server: RetrieverServer) -> None:
        self._server = server

    def options(self, **_: Any) -> Handle:
        return self

    @property
    def on_store(self) -> Handle:
        return self

    def remote(self, *args: Any) -> Awaitable[Any]:
        return self._server.on_store(*args)


async def test_bulk_run_works_on_the_store_of_a_running_stack(tmp_path: Path) -> None:
    store: Port = RemoteStore(Remote(Handle(server(tmp_path)), "knowledge", PATIENCE_S))
    with pytest.raises(NotFound):
        await store.index("docs")
    index = await store.ensure("docs", "m", 2, 32)
    row = Row("key", "t", "doc", 0, "Title", "", "text", "", 0, "", "", 3)
    await store.upsert(index, [(row, [0.6, 0.8])])
    assert await store.tokens(index, "t") == [3]
    assert await store.rows(index) == [[row]]
    assert not hasattr(store, "drop")


async def test_cross_encoder_orders_what_was_found(tmp_path: Path, cross_encoder: Path) -> None:
    made = server(tmp_path, rerank_model=str(cross_encoder))
    texts = ("tents are green", "boots are brown", "maps show rivers", "stoves burn gas")
    documents = [Document(text.split()[0], "", text) for text in texts]
    await made.ingest(context(), "docs", documents)
    plain = await made.search(context(), "docs", SearchQuery("green tents", 4, rerank=False))
    ranked = await made.search(context(), "docs", SearchQuery("green tents", 4))
    assert {each.id for each in ranked} == {each.id for each in plain}
    assert [each.score for each in ranked] == sorted((c.score for c in ranked), reverse=True)
    assert all(0 < each.score < 1 for each in ranked)


@pytest.mark.parametrize("name", ["missing", "bare", "torn"])
def test_model_that_cannot_rerank_stops_the_start(
    tmp_path: Path, cross_encoder: Path, name: str
) -> None:
    torn = tmp_path / "torn"
    torn.mkdir()
    for file in cross_encoder.iterdir():
        (torn / file.name).write_bytes(file.read_bytes())
    (torn / "model.safetensors").write_bytes(b"torn")
    bare = next(iter(models.embedding_models().values()))
    model = {"missing": str(tmp_path / "gone"), "bare": bare, "torn": str(torn)}[name]
    with pytest.raises(SettingsError) as raised:
        server(tmp_path, rerank_model=model)
    assert f"the model {model!r} cannot be loaded: " in raised.value.message
    assert "\n" not in raised.value.message
