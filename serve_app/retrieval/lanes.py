"""Who computes when, in a Milvus Lite that searches and writes share a process with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

# More searches at once would finish no sooner, and hold up what is written (docs/lab-notes.md).
_SEARCHES = 3


class Lanes:
    """At most three searches at once, and beside a write one: it takes several calls on Milvus,
    each of which waits for those under way.

    Args:
        shared: Milvus computes in this process. A server has its own; there nobody waits.
    """

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._few = asyncio.Semaphore(_SEARCHES)
        self._one = asyncio.Lock()
        self._writes = 0

    @contextlib.asynccontextmanager
    async def search(self) -> AsyncIterator[None]:
        """Wait until a search may compute."""
        async with contextlib.AsyncExitStack() as lane:
            if self._shared:
                await lane.enter_async_context(self._few)
            if self._shared and self._writes:
                await lane.enter_async_context(self._one)
            yield

    @contextlib.contextmanager
    def write(self) -> Iterator[None]:
        """Waits for nobody, and narrows what searches have."""
        self._writes += 1
        try:
            yield
        finally:
            self._writes -= 1
