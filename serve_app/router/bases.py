"""What tenants' knowledge bases speak of, as a replica of the router holds it.

A base is fetched when its tenant first asks, and again when its sketch has changed. Those that were
not asked about for longest are let go where all together would take too much memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from serve_app.errors import TriviumError
from serve_app.router.coverage import Base, Coverage
from serve_app.sketches import Sketch

log = logging.getLogger(__name__)

Key = tuple[str, str]  # collection and tenant

_FIRST_S = 0.03  # that a question waits for its tenant's first sketch
_AGAIN_S = 1.0  # between two tries, and two looks for changes
_OVERLAP_S = 10.0  # clocks and transactions
_EMPTY = Sketch.empty()
_EACH = 1024  # bytes that an entry takes beside its sketch


class Source(Protocol):
    """Where sketches come from: the retriever."""

    async def sketches(
        self, collection: str, tenants: Collection[str]
    ) -> Mapping[str, tuple[int, bytes | None]]: ...

    async def changed(self, since: float) -> tuple[float, Mapping[Key, int]]: ...


class Bases(Mapping[Key, Base]):
    """Bases by collection and tenant. One that is not there is not known.

    Args:
        most_bytes: Bound of all sketches together.
    """

    def __init__(self, source: Source, coverage: Coverage, most_bytes: int) -> None:
        self._source = source
        self._coverage = coverage
        self._most = most_bytes
        self._held: OrderedDict[Key, Base] = OrderedDict()
        self._bytes = 0
        self._rests_until = 0.0
        self._fetching: dict[Key, asyncio.Task[None]] = {}
        self._since = 0.0

    def __getitem__(self, key: Key) -> Base:
        return self._held[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def size(self) -> int:
        """Bytes that all sketches take."""
        return self._bytes

    async def ready(self, keys: Collection[Key]) -> None:
        """Wait a moment for those that are not known yet; who asks again finds them."""
        for key in keys:
            if key in self._held:
                self._held.move_to_end(key)
        if missing := [key for key in keys if key not in self._held]:
            tasks = [task for key in missing if (task := self._begun(key))]
            if tasks:
                await asyncio.wait(tasks, timeout=_FIRST_S)

    async def follow(self) -> None:
        """Take changes over, for ever."""
        while True:
            await asyncio.sleep(_AGAIN_S)
            try:
                now, changed = await self._source.changed(self._since - _OVERLAP_S)
                for key, version in changed.items():
                    if key in self._held and self._held[key].version != version:
                        await self._again(key)
                self._since = now
            except TriviumError as error:
                log.info("what knowledge bases speak of is as before: %s", error)
            except Exception:
                log.exception("what knowledge bases speak of is as before")

    async def _again(self, key: Key) -> None:
        try:
            await self._fetch(key)
        except ValueError as error:
            log.warning("what a knowledge base speaks of is as before: %s", error)

    def _begun(self, key: Key) -> asyncio.Task[None] | None:
        """The fetch of a base; none where one has failed a moment ago."""
        if key not in self._fetching:
            if time.monotonic() < self._rests_until:
                return None
            self._fetching[key] = task = asyncio.create_task(self._first(key))
            task.add_done_callback(lambda _: self._fetching.pop(key))
        return self._fetching[key]

    async def _first(self, key: Key) -> None:
        try:
            await self._fetch(key)
        except (TriviumError, ValueError) as error:
            self._rests_until = time.monotonic() + _AGAIN_S
            log.info("what a knowledge base speaks of is not known: %s", error)
        except Exception:
            self._rests_until = time.monotonic() + _AGAIN_S
            log.exception("what a knowledge base speaks of is not known")

    async def _fetch(self, key: Key) -> None:
        collection, tenant = key
        version, content = (await self._source.sketches(collection, [tenant]))[tenant]
        if (held := self._held.get(key)) and held.version == version:
            return
        base = (
            await asyncio.to_thread(self._made, version, content)
            if content
            else self._coverage.base(_EMPTY, version)
        )
        self._drop(key)
        self._held[key] = base
        self._bytes += base.size + _EACH
        while self._bytes > self._most and len(self._held) > 1:
            self._drop(next(iter(self._held)))

    def _made(self, version: int, content: bytes) -> Base:
        return self._coverage.base(Sketch.from_bytes(content), version)

    def _drop(self, key: Key) -> None:
        if base := self._held.pop(key, None):
            self._bytes -= base.size + _EACH
