"""Collections as readers and writers find them, and how their indexes come and go.

The registry says which index is in force. A collection's name is also an alias of it in Milvus, for
whoever looks there, and for the day on which the registry is lost; nothing here reads it but
`adopting`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextvars import Context

from serve_app.errors import Conflict, NotFound, Unavailable
from serve_app.retrieval.adopting import Adoption
from serve_app.retrieval.port import Port
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Collection, Index

log = logging.getLogger(__name__)

_FRESH_S = 1.0  # an index that was replaced may be read for so long
_STALE_S = 300.0  # and for so long while the registry cannot be read
_HOLD_S = 20.0  # who makes an index and is heard of no more has lost the collection after so long
_RENEWED_S = 5.0
_LOOK_AGAIN_S = 0.05


class Catalogue:
    """Collections by name.

    Every method raises `Unavailable` when the registry or Milvus does not answer in time.

    Args:
        patience_s: How long to wait for somebody else who makes or removes an index.
    """

    def __init__(self, store: Port, registry: Registry, patience_s: float = 30.0) -> None:
        self._store = store
        self._registry = registry
        self._patience_s = patience_s
        self._adoption = Adoption(store, registry)
        self._in_force: dict[str, tuple[float, Index]] = {}
        self._adopting: dict[str, asyncio.Task[None]] = {}

    async def index(self, name: str) -> Index:
        """The index in force; one that was replaced is noticed within a second.

        Raises:
            NotFound: Nothing was ever put into the collection.
        """
        known = self._in_force.get(name)
        age = time.monotonic() - known[0] if known else _STALE_S
        if known and age < _FRESH_S:
            return known[1]
        try:
            found = await self.collection(name)
        except Unavailable:
            if known and age < _STALE_S:
                return known[1]
            raise
        except NotFound:
            self._in_force.pop(name, None)
            raise
        assert found.in_force is not None
        self._in_force[name] = (time.monotonic(), found.in_force)
        return found.in_force

    async def collection(self, name: str) -> Collection:
        """A collection that has an index in force; one from before the registry is registered.

        Raises:
            NotFound: There is none.
        """
        found = await self._registry.collections.get(name)
        if found is not None and found.in_force is not None:
            return found
        if await self._adoption.is_due(name):
            # It may take longer than whoever asks first waits.
            if name not in self._adopting:
                self._adopting[name] = asyncio.create_task(self._adopted(name), context=Context())
            await asyncio.shield(self._adopting[name])
            found = await self._registry.collections.get(name)
        if found is None or found.in_force is None:
            raise NotFound(
                f"there is no collection {name!r}; PUT a document into it to create it",
                param="collection",
            )
        return found

    async def ensure(
        self,
        name: str,
        model: str,
        dimension: int,
        chunk_tokens: int,
        owner: str,
        most: int | None = None,
    ) -> Collection:
        """A collection, made if there is none: by one of all that come at the same time.

        Args:
            most: Collections that its owner may have.

        Raises:
            TooManyCollections: The owner has so many.
        """
        until = time.monotonic() + self._patience_s
        while True:
            with contextlib.suppress(NotFound):
                return await self.collection(name)
            await self._registry.collections.begin(name, owner, most)
            try:
                async with self.held(name):
                    found = await self._registry.collections.get(name)
                    if found is None or found.in_force is None:
                        made = await self.make(name, model, dimension, chunk_tokens)
                        await self._registry.collections.made(made, first=True)
                        await self._store.alias(name, made.name)
            except NotFound:  # whoever was removing it is done
                if time.monotonic() >= until:
                    raise

    async def make(self, name: str, model: str, dimension: int, chunk_tokens: int) -> Index:
        """A new, empty index, for whoever holds the collection to put to use."""
        sparse = await self._store.computes_bm25()
        found = await self._registry.collections.get(name)
        before = found and found.in_force
        _, rows = await self._registry.documents.sizes(before.name) if before else (0, 0)
        chosen = await self._store.choice(rows, dimension)
        index = await self._registry.collections.add(
            name,
            model,
            dimension,
            chunk_tokens,
            sparse=sparse,
            vectors=chosen.type,
            reason=chosen.reason,
        )
        await self._store.make(index)
        return index

    async def drop(self, index: Index) -> None:
        """Drop an index that is out of force; one that is half dropped, `prune` finds."""
        await self._registry.collections.condemn(index.name)
        await self._store.drop(index.name)
        await self._registry.collections.forget_index(index.name)

    async def remove(self, name: str, only_of: str | None = None) -> bool:
        """Remove a collection with all its indexes and documents.

        Args:
            only_of: Leave it where it holds documents of other tenants than this.

        Returns:
            Whether it is gone.

        Raises:
            NotFound: There is none.
        """
        await self.collection(name)
        async with self.held(name):
            return await self._removed(name, only_of)

    async def prune(self, name: str, grace_s: float) -> list[str]:
        """Drop indexes that are out of force for longer, and those that were never finished.

        Returns:
            Their names.
        """
        async with self.held(name):
            due = await self._registry.collections.droppable(name, grace_s)
            for index in due:
                await self.drop(index)
        while await self._registry.documents.forget_deleted(name, time.time() - grace_s):
            pass
        return [index.name for index in due]

    @contextlib.asynccontextmanager
    async def held(self, name: str, *, wait: bool = True) -> AsyncIterator[None]:
        """Have a registered collection's indexes for oneself.

        Raises:
            Conflict: Somebody else has them, and it is not waited, or was for too long.
            NotFound: It is not registered, or is removed meanwhile.
        """
        token = uuid.uuid4().hex
        until = time.monotonic() + (self._patience_s if wait else 0.0)
        while not await self._registry.collections.hold(name, token, _HOLD_S):
            if time.monotonic() >= until:
                raise Conflict(
                    f"the indexes of {name!r} are being made, filled or removed by somebody else; "
                    "wait until that is done"
                )
            await asyncio.sleep(_LOOK_AGAIN_S)
        beat = asyncio.create_task(self._renew(name, token))
        try:
            if await self._registry.collections.is_removing(name):
                await self._removed(name)  # whoever began that has died
                raise NotFound(f"there is no collection {name!r} any more", param="collection")
            yield
        finally:
            beat.cancel()
            with contextlib.suppress(Unavailable):
                await asyncio.shield(self._registry.collections.let_go(name, token))

    async def _adopted(self, name: str) -> None:
        try:
            async with self.held(name):
                await self._adoption.adopt(name)
        finally:
            del self._adopting[name]

    async def _renew(self, name: str, token: str) -> None:
        while True:
            await asyncio.sleep(_RENEWED_S)
            with contextlib.suppress(Unavailable, NotFound):
                await self._registry.collections.hold(name, token, _HOLD_S)

    async def _removed(self, name: str, only_of: str | None = None) -> bool:
        indexes = await self._registry.collections.remove(name, only_of)
        if indexes is None:
            return False
        self._in_force.pop(name, None)
        await self._store.unalias(name)
        for index in indexes:
            await self._store.drop(index.name)
        await self._registry.collections.forget(name)
        return True
