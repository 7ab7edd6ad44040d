"""What the retriever's deployment adds to the retriever, without Ray."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest

from serve_app import models
from serve_app.domain import Document, RequestContext, SearchQuery
from serve_app.errors import InvalidRequest, SettingsError
from serve_app.handles import Remote
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.deployment import RetrieverServer
from serve_app.retrieval.index import Row
from serve_app.retrieval.port import PATIENCE_S, Port, RemoteStore
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Facts, Index
from serve_app.retrieval.writing import Embedded, Writer
from tests.fixtures import context, unread

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def server(folder: Path, **more: str | int) -> RetrieverServer:
    store = {"milvus_uri": str(folder / "milvus.db")}
    return RetrieverServer(
        {"retrieval": {**store, **more}}, models.embedding_models(), unread, None
    )


INDEX = Index("docs__1", "m", 2, 32, sparse=False)


async def test_others_reach_the_store_by_its_port_alone_and_in_time(tmp_path: Path) -> None:
    made = server(tmp_path)
    await made.on_store(context(), "make", INDEX)
    assert await made.on_store(context(), "between", INDEX.name, "", "") == []
    for method in ("close", "search", "be_patient", "_client", "__class__"):
        with pytest.raises(InvalidRequest, match="not for others"):
            await made.on_store(context(), method)
    with pytest.raises(TimeoutError):
        await made.on_store(RequestContext("late", time.time() - 1), "rows", INDEX.name)


async def test_chunks_that_the_model_would_cut_off_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"retrieval.chunk_tokens .*all-MiniLM-L6-v2"):
        server(tmp_path, chunk_tokens=255)
    made = server(tmp_path)
    await made.reconfigure({"retrieval": {"chunk_tokens": 64}})
    await made.reconfigure({"retrieval": {"chunk_tokens": 512}})
    await made.ingest(context(), "docs", [Document("d", "", "word " * 100)])
    assert len((await made.document(context(), "docs", "d")).chunks) == 2  # the last good ones


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
    registry = Registry(str(tmp_path / "registry.db"))
    row = Row("t", "doc", 0, "Title", "", "text", tokens=3)

    async def prepare(index: Index, places: Sequence[int]) -> list[Embedded]:
        return [[(row, [0.6, 0.8])] for _ in places]

    await Catalogue(store, registry).ensure("docs", "m", 2, 32, "t")
    written = await Writer(store, registry).put("docs", [Facts("t", "doc")], prepare)
    assert (written.chunks, written.tokens) == (1, 3)
    (place,) = await store.between(INDEX.name, "", "")
    (stored,) = await store.stored(INDEX, [place.id])
    assert stored.row == row
    assert not hasattr(store, "search")
    await registry.close()


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
