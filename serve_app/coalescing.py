"""Steps of an answer on their way to another process: those that pile up share one hop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from functools import reduce
from operator import add

from serve_app.domain import Delta


async def coalesce(deltas: AsyncIterator[Delta]) -> AsyncGenerator[Delta]:
    """Merge deltas that pile up while the consumer is busy; never wait for more of them.

    A lone stream is passed on token by token. Under load, where a hop between processes costs
    more than a token, several tokens share one.
    """
    waiting: list[Delta] = []
    moved = asyncio.Event()

    async def pump() -> None:
        try:
            async for delta in deltas:
                waiting.append(delta)
                moved.set()
        finally:
            # Of a cancelled source too: the reader must not wait for what will never come.
            moved.set()

    task = asyncio.create_task(pump())
    try:
        while waiting or not task.done():
            await moved.wait()
            moved.clear()
            if waiting:
                merged = reduce(add, waiting)
                waiting.clear()
                yield merged
        task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
