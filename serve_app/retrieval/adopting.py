"""Collections that Milvus has and the registry has not: from before it, or since it was lost.

What Milvus holds is registered as it is. An index whose rows have the layout of an earlier version
is carried over into a new one first, with its vectors: nothing is embedded again.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from serve_app.retrieval.port import Port
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Index
from serve_app.retrieval.scanning import intervals

log = logging.getLogger(__name__)


class Adoption:
    """Registers what is there."""

    def __init__(self, store: Port, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    async def is_due(self, collection: str) -> bool:
        """Whether Milvus has a collection that the registry does not know; its name is registered
        then, so that one process can have it."""
        name = await self._store.aliased(collection)
        if name is None or await self._registry.collections.is_removing(collection):
            return False
        made = await self._store.made(collection)
        owners = [index.owner for index, _ in made if index.name == name]
        if owners:
            await self._registry.collections.begin(collection, owners[0])
        return bool(owners)

    async def adopt(self, collection: str) -> None:
        """Register it, unless somebody has by now; to be done by who holds it."""
        found = await self._registry.collections.get(collection)
        name = await self._store.aliased(collection)
        if (found is not None and found.in_force is not None) or name is None:
            return
        made = await self._store.made(collection)
        await self._registry.collections.number_from(collection, made[-1][0].version)
        in_force, is_current = next(each for each in made if each[0].name == name)
        log.warning("registering the documents of %r, which the registry does not know", collection)
        if not is_current:
            in_force = await self._carried_over(in_force)
        for first, end in intervals(await self._store.rows(in_force.name)):
            documents = await self._store.documents_between(in_force, first, end)
            await self._registry.documents.adopt(collection, in_force.name, documents)
        await self._registry.documents.redate(collection)
        await self._registry.collections.adopt(in_force)
        await self._store.alias(collection, in_force.name)
        # What is left beside it is of an earlier version, or of an adoption that broke off.
        for index, _ in made:
            if index.name != in_force.name:
                await self._store.drop(index.name)

    async def _carried_over(self, old: Index) -> Index:
        """A new index with the rows of one that an earlier version has made."""
        chosen = await self._store.choice(await self._store.rows(old.name), old.dimension)
        new = await self._registry.collections.add(
            old.collection,
            old.model,
            old.dimension,
            old.chunk_tokens,
            sparse=await self._store.computes_bm25(),
            vectors=chosen.type,
            reason=chosen.reason,
        )
        await self._store.make(new)
        version = int(time.time() * 1000)
        for first, end in intervals(await self._store.rows(old.name)):
            rows = await self._store.first_layout(old, first, end)
            await self._store.upsert(new, [replace(each, version=version) for each in rows])
        return new
