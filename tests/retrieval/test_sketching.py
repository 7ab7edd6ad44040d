"""What collections speak of is drawn for the router as their documents come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from serve_app.domain import Document
from serve_app.errors import Unavailable
from serve_app.retrieval import sketching
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever
from serve_app.retrieval.sketching import Sketcher
from serve_app.retrieval.store import MilvusStore
from serve_app.router.encoder import Floats
from serve_app.sketches import Sketch, VectorModel, words
from tests.fixtures import unread

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest.fixture
def sketcher(store: MilvusStore, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Sketcher:
    monkeypatch.setattr(sketching, "_REST", 0.0)
    return Sketcher(store, registry, unread())


async def drawn(sketcher: Sketcher, collection: str, tenant: str = "red") -> Sketch:
    await sketcher.step()
    found = (await sketcher.registry.sketches.get(collection, [tenant]))[tenant]
    return Sketch.from_bytes(found.content) if found.content else Sketch.empty()


def has(sketch: Sketch, word: str) -> bool:
    return bool(set(words(word).tolist()) <= set(sketch.hashes.tolist()))


async def test_documents_that_come_and_go_change_what_a_base_speaks_of(
    sketcher: Sketcher, retriever: Retriever, collection: str
) -> None:
    await retriever.ingest(collection, "red", [Document("a", "Tents", "Zorbium keeps rain out.")])
    assert has(await drawn(sketcher, collection), "zorbium")
    assert not (await drawn(sketcher, collection, "blue")).texts, "a tenant's base is its own"
    await retriever.ingest(collection, "red", [Document("a", "Tents", "Canvas keeps rain out.")])
    later = await drawn(sketcher, collection)
    assert has(later, "canvas")
    assert not has(later, "zorbium")
    await retriever.delete(collection, "red", "a")
    assert not (await drawn(sketcher, collection)).texts


async def test_a_base_that_is_drawn_anew_reads_only_what_is_new(
    sketcher: Sketcher, retriever: Retriever, collection: str
) -> None:
    """A feed of one figure every few seconds must not have a whole handbook encoded each time."""
    read: list[str] = []

    def embed(texts: Sequence[str]) -> Floats:
        read.extend(texts)
        return np.stack([np.full(2, len(text), np.float32) for text in texts])

    counting = Sketcher(sketcher.store, sketcher.registry, VectorModel("counting", embed))
    documents = [Document(name, name, f"{name} keeps rain out.") for name in "abcdef"]
    await retriever.ingest(collection, "red", documents)
    before = await drawn(counting, collection)
    read.clear()
    await retriever.ingest(collection, "red", [Document("a", "a", "Canvas.")])
    after = await drawn(counting, collection)
    assert read == ["a\nCanvas."]
    assert (len(before.sampled), len(after.sampled)) == (6, 6)
    gone = dict(zip(before.sampled.tolist(), before.vectors.tolist(), strict=True))
    kept = dict(zip(after.sampled.tolist(), after.vectors.tolist(), strict=True))
    assert sum(gone.get(number) == vector for number, vector in kept.items()) == 5


async def test_what_is_for_some_groups_alone_is_not_told(
    sketcher: Sketcher, retriever: Retriever, collection: str
) -> None:
    secret = Document("a", "Plans", "Bluebird merges in May.", allow=("board",))
    await retriever.ingest(collection, "red", [secret, Document("b", "Lunch", "Soup.")], ("board",))
    sketch = await drawn(sketcher, collection)
    assert has(sketch, "soup")
    assert not has(sketch, "bluebird")


async def test_a_collection_that_is_removed_speaks_of_nothing(
    sketcher: Sketcher, retriever: Retriever, collection: str
) -> None:
    await retriever.ingest(collection, "red", [Document("a", "Tents", "Canvas.")])
    before = (await drawn(sketcher, collection)).texts
    await retriever.delete_collection(collection, "red")
    found = (await sketcher.registry.sketches.get(collection, ["red"]))["red"]
    assert before == 1
    assert found.content is None, "at once, without another drawing"


async def test_a_large_base_is_added_to_and_drawn_anew_when_too_much_has_gone(
    sketcher: Sketcher,
    retriever: Retriever,
    collection: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sketching, "_FEW", 3)
    many = [Document(str(number), "Part", f"word{number} common") for number in range(12)]
    await retriever.ingest(collection, "red", many)
    assert has(await drawn(sketcher, collection), "word11")
    await retriever.ingest(collection, "red", [Document("new", "Part", "later common")])
    more = await drawn(sketcher, collection)
    assert has(more, "later")
    for number in range(8):
        await retriever.delete(collection, "red", str(number))
    rest = await drawn(sketcher, collection)
    assert has(rest, "word11")
    assert not has(rest, "word3")


async def test_what_another_model_drew_is_drawn_anew(
    sketcher: Sketcher, retriever: Retriever, collection: str
) -> None:
    await retriever.ingest(collection, "red", [Document("a", "Tents", "Canvas.")])
    before = await drawn(sketcher, collection)
    later = Sketcher(sketcher.store, sketcher.registry, replace(sketcher.model, version="later"))
    after = await drawn(later, collection)
    assert (before.model, after.model) == (sketcher.model.version, "later")
    assert has(after, "canvas")


async def test_a_drawing_that_fails_is_tried_again_at_once(
    sketcher: Sketcher,
    retriever: Retriever,
    collection: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await retriever.ingest(collection, "red", [Document("a", "Tents", "Canvas.")])
    with monkeypatch.context() as broken:
        broken.setattr(Sketcher, "_added", _away)
        with pytest.raises(Unavailable):
            await sketcher.step()
    assert has(await drawn(sketcher, collection), "canvas")


async def _away(*_: object) -> Sketch:
    raise Unavailable("Milvus is away")
