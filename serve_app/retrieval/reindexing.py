"""Another index for a collection, while it is searched and written: filled, then put in force.

From when an index begins to be filled every writer writes it too, and deletes from it. What was
there before is carried over document by document, until there is none that the index does not hold
as it is. Going back to an index that was replaced is the same: first it is brought up to date.
Whoever dies has the same command finish it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.errors import Conflict, NotFound
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.mending import Mended, Mender
from serve_app.retrieval.port import Port
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Collection, Index

_DOCUMENTS = 64  # carried over together, and so many are done again by who finishes for the dead
_LOOK_AGAIN_S = 0.2

Progress = Callable[[int, int], None]  # documents carried over, of so many


class Reindexing:
    """Fills indexes and puts them in force."""

    def __init__(
        self, store: Port, registry: Registry, catalogue: Catalogue, mender: Mender
    ) -> None:
        self._store = store
        self._registry = registry
        self._catalogue = catalogue
        self._mender = mender

    async def reindex(
        self,
        name: str,
        model: str,
        dimension: int,
        chunk_tokens: int,
        on_progress: Progress = lambda done, total: None,
    ) -> tuple[Index, Mended]:
        """Fill a new index and put it in force; go on with one that is being filled already.

        Raises:
            NotFound: There is no such collection.
            Conflict: Another one is being filled, by somebody or for another purpose; or it was
                told to stop.
        """
        await self._catalogue.collection(name)
        async with self._catalogue.held(name):
            filling = (await self._catalogue.collection(name)).filling
            if filling is None:
                made = await self._catalogue.make(name, model, dimension, chunk_tokens)
                await self._registry.collections.made(made)
            elif (filling.model, filling.chunk_tokens) != (model, chunk_tokens):
                raise Conflict(
                    f"{filling.name} is being filled, with {filling.model!r} and chunks of "
                    f"{filling.chunk_tokens} tokens: finish that, or stop it with --abort"
                )
            return await self._filled(name, on_progress)

    async def rollback(
        self, name: str, on_progress: Progress = lambda done, total: None
    ) -> tuple[Index, Mended]:
        """Bring the index before the one in force up to date, and put it in force again.

        Raises:
            NotFound: There is none.
            Conflict: As `reindex`.
        """
        await self._catalogue.collection(name)
        async with self._catalogue.held(name):
            found = await self._catalogue.collection(name)
            assert found.in_force is not None
            earlier = [each for each in found.retired if each.version < found.in_force.version]
            if found.filling is None or found.filling.version > found.in_force.version:
                if not earlier:
                    raise NotFound(f"{name!r} has no index before {found.in_force.name}")
                await self._registry.collections.refill(name, earlier[-1].name)
            return await self._filled(name, on_progress)

    async def abort(self, name: str) -> Index:
        """Stop filling an index: searches go on with the one in force. A new one is dropped.

        Raises:
            NotFound: None is being filled.
        """
        stopped = await self._registry.collections.abort(name)
        try:
            async with self._catalogue.held(name, wait=False):
                await self._dropped(await self._catalogue.collection(name), stopped)
        except Conflict:
            pass  # who fills it finds out, and drops it
        return stopped

    async def _filled(self, name: str, on_progress: Progress) -> tuple[Index, Mended]:
        target = await self._target(name)
        total = await self._registry.documents.count_behind(name, target.name)
        done = Mended()
        on_progress(0, total)
        while True:
            before = done
            after, lost = "", 0
            while page := await self._registry.documents.behind(
                name, target.name, after, _DOCUMENTS
            ):
                found = await self._going_on(name, target)
                step = await self._mender.bring(found, target, page)
                after, lost = page[-1].key, lost + len(step.lost)
                done += step
                total = max(total, done.documents)
                on_progress(done.documents, total)
            try:
                missing = await self._registry.collections.switch(name)
            except NotFound:
                await self._going_on(name, target)  # it was told to stop just now
                raise
            if not missing:
                break
            if lost >= missing:
                raise Conflict(
                    f"chunks of {missing} documents of {name!r} are missing, so they cannot be "
                    f"carried over: `trivium collections check {name} --repair` says which"
                )
            if done.documents == before.documents:
                await asyncio.sleep(_LOOK_AGAIN_S)  # somebody writes those that are left
        await self._store.alias(name, target.name)
        return target, done

    async def _target(self, name: str) -> Index:
        filling = (await self._catalogue.collection(name)).filling
        if filling is None:
            raise Conflict(f"the reindex of {name!r} was told to stop")
        return filling

    async def _going_on(self, name: str, target: Index) -> Collection:
        """Wait while it is paused.

        Raises:
            Conflict: It was told to stop; then the index is gone.
        """
        while True:
            found = await self._catalogue.collection(name)
            if found.filling != target:
                await self._dropped(found, target)
                raise Conflict(f"the reindex of {name!r} was told to stop")
            if not found.paused:
                return found
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _dropped(self, collection: Collection, index: Index) -> None:
        """One that was in force before may be wanted again."""
        assert collection.in_force is not None
        if index.version < collection.in_force.version:
            return
        await self._catalogue.drop(index)
