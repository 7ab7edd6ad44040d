"""Steps of an answer on their way to another process: those that pile up share one hop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from serve_app.domain import Delta


async def coalesce(deltas: AsyncIterator[Delta]) -> AsyncGenerator[Delta]:
    """Merge deltas that pile up while the consumer is busy; never wait for more of them.

    A lone stream is passed on token by token. Under load, where a hop between processes costs
    more than a token, several tokens share one.
    """
    queue: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue()

    async def pump() -> None:
        try:
            async for delta in deltas:
                queue.put_nowait(delta)
            queue.put_nowait(None)
        except BaseException as error:
            # A cancelled source too: the reader must not wait for what will never come.
            queue.put_nowait(error)

    task = asyncio.create_task(pump())
    try:
        while True:
            item = await queue.get()
            merged: Delta | None = None
            while isinstance(item, Delta):
                merged = item if merged is None else merged + item
                if queue.empty():
                    break
                item = queue.get_nowait()
            if merged is not None:
                yield merged
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
