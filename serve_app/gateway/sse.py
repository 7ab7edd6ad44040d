"""Server-sent events: JSON objects as they come, a comment when nothing does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def event(*objects: dict[str, Any]) -> bytes:
    """An event for each object, end to end."""
    lines = (json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in objects)
    return "".join(f"data: {line}\n\n" for line in lines).encode()


async def kept_alive(
    head: bytes, events: AsyncGenerator[bytes], idle_s: float
) -> AsyncIterator[bytes]:
    """Pass `head` and `events` on; after `idle_s` of silence send a comment.

    Proxies cut streams that idle. Closing this closes `events`.
    """
    yield head
    pending = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait([pending], timeout=idle_s)
            if not done:
                yield KEEP_ALIVE
                continue
            item = pending.result()
            if item is None:
                return
            yield item
            pending = asyncio.ensure_future(anext(events, None))
    finally:
        pending.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await pending
        await events.aclose()
