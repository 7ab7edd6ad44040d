"""The application of a replica, exchanged while it answers.

A request is answered to its end by the application it began with. What that one holds (connections
to the ledger, work in the background) is let go when its last request is over.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send


class Version(Protocol):
    """An application under settings that do not change, and what it holds."""

    @property
    def app(self) -> ASGIApp: ...

    def retire(self) -> None:
        """Another one takes its place: end whatever no request waits for."""
        ...

    async def close(self) -> None:
        """Its last request is over."""
        ...


class _Counted:
    __slots__ = ("requests", "version")

    def __init__(self, version: Version) -> None:
        self.version = version
        self.requests = 0


class Exchange:
    """An ASGI application that is, of several, the one in force."""

    def __init__(self) -> None:
        self._now: _Counted | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def put(self, version: Version) -> None:
        """Let this one answer what comes from now on."""
        before, self._now = self._now, _Counted(version)
        if before:
            before.version.retire()
            self._close_if_idle(before)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        now = self._now
        assert now is not None  # Serve configures a replica before it lets requests in
        now.requests += 1
        try:
            await now.version.app(scope, receive, send)
        finally:
            now.requests -= 1
            if now is not self._now:
                self._close_if_idle(now)

    def _close_if_idle(self, before: _Counted) -> None:
        if before.requests == 0:
            task = asyncio.create_task(before.version.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if now := self._now:
            now.version.retire()
            await now.version.close()
        await asyncio.gather(*self._closing)
        await send({"type": "lifespan.shutdown.complete"})
