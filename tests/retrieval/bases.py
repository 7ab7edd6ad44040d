"""A knowledge base as tests look at it: what its index holds, and whether the registry agrees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from loadtest.words import DIMENSION, Models
from serve_app.domain import Document
from serve_app.retrieval import preparing
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.checking import Check, Report
from serve_app.retrieval.mending import Mender
from serve_app.retrieval.preparing import Models as EmbeddingModels
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.reindexing import Reindexing
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore

MODEL = f"words-{DIMENSION}"


@dataclass(frozen=True, slots=True)
class Base:
    """A store and its registry."""

    store: MilvusStore
    registry: Registry

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.store, self.registry)

    def mender(self, models: EmbeddingModels) -> Mender:
        return Mender(self.store, self.registry, partial(preparing.split, models))

    def reindexing(self, models: EmbeddingModels, patience_s: float = 30.0) -> Reindexing:
        catalogue = Catalogue(self.store, self.registry, patience_s)
        return Reindexing(self.store, self.registry, catalogue, self.mender(models))

    async def check(
        self, models: EmbeddingModels, collection: str, *, repair: bool = False
    ) -> Report:
        made = Check(self.store, self.registry, self.catalogue, self.mender(models))
        return await made.check(collection, repair=repair)


async def indexed(base: Base, collection: str, tenant: str, name: str) -> list[str]:
    """Texts of a document's rows, as the index in force has them."""
    index = await base.catalogue.index(collection)
    places = await base.store.places(index.name, [(tenant, name)])
    stored = await base.store.stored(index, [each.id for each in places])
    return [e.row.text for e in sorted(stored, key=lambda each: each.row.ordinal)]


async def content(base: Base, collection: str) -> set[tuple[str, int, str]]:
    """Every row of the index in force: document, place, text; asserts that none is there twice."""
    index = await base.catalogue.index(collection)
    places = await base.store.between(index.name, "", "")
    stored = await base.store.stored(index, [each.id for each in places])
    rows = [(each.row.document_id, each.row.ordinal, each.row.text) for each in stored]
    assert len(rows) == len(set(rows)) == len(places)
    return set(rows)


def replica(base: Base, models: Models | None = None) -> Retriever:
    """One more process beside the others: it shares no cache with them."""
    return Retriever(base.store, base.registry, models or Models(), 40, Rules())


def doc(name: str, *texts: str, **metadata: str) -> Document:
    text = "\n".join(f"# Part {i}\n{each}" for i, each in enumerate(texts))
    return Document(name, "Title", text, metadata)


async def texts(base: Base, collection: str, name: str, tenant: str = "t") -> list[str]:
    found = await replica(base).document(collection, tenant, name)
    read = [chunk.text for chunk in found.chunks]
    assert read == await indexed(base, collection, tenant, name)
    return read


async def is_sound(base: Base, collection: str) -> bool:
    report = await base.check(Models(), collection)
    assert report.is_sound, report
    return True


async def reindex(base: Base, collection: str, chunk_tokens: int = 3) -> str:
    made, _ = await base.reindexing(Models()).reindex(collection, MODEL, DIMENSION, chunk_tokens)
    return made.name
