"""Server-sent events: JSON objects as they come, a comment when nothing does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

_in_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# JSON lets these be, and many readers take each for the end of a line.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def event(*objects: dict[str, Any]) -> bytes:
    """An event for each object, end to end. Each is one line, however its reader splits lines."""
    text = "".join([f"data: {_in_json(each)}\n\n" for each in objects])
    return (text if text.isascii() else text.translate(_LINE_ENDS)).encode()


async def kept_alive(
    head: bytes, events: AsyncGenerator[bytes], idle_s: float
) -> AsyncIterator[bytes]:
    """Pass `head` and `events` on; after `idle_s` of silence send a comment.

    Proxies cut streams that idle. Closing this closes `events`.
    """
    yield head
    pending = asyncio.create_task(_next(events))
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
            pending = asyncio.create_task(_next(events))
    finally:
        pending.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await pending
        await events.aclose()


async def _next(events: AsyncGenerator[bytes]) -> bytes | None:
    return await anext(events, None)
