"""Tenants in Milvus collections of their own, by the settings. On both Milvuses."""

from __future__ import annotations

import pytest

from loadtest.words import DIMENSION, Models
from serve_app.domain import Document, SearchQuery
from serve_app.errors import InvalidRequest, NotFound
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.settings.sections import Tenancy
from tests.retrieval.bases import Base, content

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]

TIERS = Tenancy(classes={"gold": ("acme", "globex")})


def tiered(base: Base, tenancy: Tenancy = TIERS) -> Retriever:
    return Retriever(base.store, base.registry, Models(), 40, Rules(), tenancy=tenancy)


async def filled(base: Base, collection: str, tenancy: Tenancy = TIERS) -> Retriever:
    """A document of the same id and text for each of four tenants."""
    retriever = tiered(base, tenancy)
    for tenant in ("acme", "globex", "initech", "hooli"):
        await retriever.ingest(collection, tenant, [Document("plan", "", f"the plan of {tenant}")])
    return retriever


async def seen(retriever: Retriever, collection: str, tenant: str) -> list[str]:
    found = await retriever.search(collection, tenant, SearchQuery("the plan", 9, "dense"))
    read = await retriever.document(collection, tenant, "plan")
    assert [chunk.text for chunk in read.chunks] == [chunk.text for chunk in found]
    return [chunk.text for chunk in found]


async def held(base: Base, place: str) -> set[str]:
    return {text for _, _, text in await content(base, place)}


async def test_a_class_of_tenants_has_a_collection_of_its_own(base: Base, collection: str) -> None:
    retriever = await filled(base, collection)
    gold = f"{collection}@gold"
    assert await held(base, gold) == {"the plan of acme", "the plan of globex"}
    places = await base.store.between((await base.catalogue.index(collection)).name, "", "")
    assert {each.tenant for each in places} == {"initech", "hooli"}
    for tenant in ("acme", "globex", "initech", "hooli"):
        assert await seen(retriever, collection, tenant) == [f"the plan of {tenant}"]


async def test_every_tenant_may_have_its_own(base: Base, collection: str) -> None:
    tenancy = Tenancy(level="collection")
    retriever = await filled(base, collection, tenancy)
    for tenant in ("acme", "globex", "initech", "hooli"):
        place = tenancy.place(collection, tenant)
        assert await held(base, place) == {f"the plan of {tenant}"}
        assert await seen(retriever, collection, tenant) == [f"the plan of {tenant}"]
    with pytest.raises(NotFound):
        await base.catalogue.collection(collection)


async def test_what_is_done_to_one_leaves_the_others_alone(base: Base, collection: str) -> None:
    await filled(base, collection)
    gold = f"{collection}@gold"
    before = await base.catalogue.collection(collection)
    made, _ = await base.reindexing(Models()).reindex(gold, f"words-{DIMENSION}", DIMENSION, 9)
    assert made.name.endswith("Agold__2")
    assert await base.catalogue.collection(collection) == before
    assert await seen(tiered(base), collection, "acme") == ["the plan of acme"]
    back, _ = await base.reindexing(Models()).rollback(gold)
    assert back.version == 1
    for place in (gold, collection):
        assert (await base.check(Models(), place)).is_sound
    assert await base.catalogue.prune(gold, 0) == [made.name]
    assert await base.catalogue.remove(gold)
    assert await base.store.made(gold) == []
    assert await seen(tiered(base), collection, "hooli") == ["the plan of hooli"]
    # What was erased may be written again.
    await tiered(base).ingest(collection, "acme", [Document("plan", "", "another plan")])
    assert await seen(tiered(base), collection, "acme") == ["another plan"]


async def test_a_tenants_collection_goes_with_its_documents(base: Base, collection: str) -> None:
    retriever = await filled(base, collection, Tenancy(level="collection"))
    place = retriever.tenancy.place(collection, "acme")
    assert await retriever.delete_collection(collection, "acme") == 1
    assert await base.store.made(place) == []
    assert await seen(retriever, collection, "hooli") == ["the plan of hooli"]


async def test_an_error_names_the_collection_as_the_caller_does(
    base: Base, collection: str
) -> None:
    retriever = tiered(base, Tenancy(level="collection"))
    with pytest.raises(NotFound, match=f"there is no collection '{collection}'"):
        await retriever.documents(collection, "acme")
    await retriever.ingest(collection, "acme", [Document("plan", "", "text")])
    with pytest.raises(NotFound, match=f"there is no document 'other' in '{collection}'"):
        await retriever.document(collection, "acme", "other")
    with pytest.raises(InvalidRequest, match="at most 49 characters"):
        await retriever.ingest("c" * 50, "acme", [Document("plan", "", "text")])


async def test_what_the_registry_has_lost_is_found_under_the_same_name(
    base: Base, collection: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await filled(base, collection)
    again = Base(base.store, Registry(str(tmp_path_factory.mktemp("again") / "registry.db")))
    retriever = tiered(again)
    for tenant in ("acme", "initech"):
        assert await seen(retriever, collection, tenant) == [f"the plan of {tenant}"]
    await again.registry.close()
