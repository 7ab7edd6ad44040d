"""The ledger's keys, as one gateway knows them: read when they are asked for, and remembered.

Valid keys are remembered apart from all others, so that no flood of wrong ones drives them out or
makes them wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from serve_app.errors import LedgerUnavailable, Overloaded
from serve_app.ledger.keys import Key, Keys

log = logging.getLogger(__name__)

_FRESH_S = 2.0  # a key that is revoked may be good for so long
_STALE_S = 300.0  # and for so long, while the ledger cannot be read
_PATIENCE_S = 2.0
_REFUSED = 10_000  # keys that are remembered as wrong
_STRANGERS = 2  # look-ups of keys that are not known as valid, at once
_QUEUE = 64  # and so many may wait for one


@dataclass(frozen=True, slots=True)
class _Seen:
    when: float
    key: Key | None


class LookUps:
    """Finds keys by their digests.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, keys: Keys, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._clock = clock
        # As many as there are valid keys in the ledger, at most.
        self._valid: dict[str, _Seen] = {}
        self._refused: OrderedDict[str, _Seen] = OrderedDict()
        self._failed = -_STALE_S
        self._strangers = asyncio.Semaphore(_STRANGERS)
        self._queued = 0
        self._under_way: dict[str, asyncio.Task[Key | None]] = {}

    def is_valid(self, sha256: str) -> bool:
        """Whether it was a valid key when it was last looked up."""
        return sha256 in self._valid

    @property
    def busy(self) -> bool:
        """Whether the look-up of a key that is not known as valid would have to wait."""
        return self._strangers.locked()

    async def find(self, sha256: str) -> Key | None:
        """The key with this digest, whatever its state; `None` where there is none.

        Raises:
            LedgerUnavailable: The ledger cannot be read, and the key was not valid lately.
            Overloaded: Too many others wait for a look-up.
        """
        now = self._clock()
        seen = self._valid.get(sha256) or self._refused.get(sha256)
        if seen and 0 <= now - seen.when <= _FRESH_S:
            return seen.key
        # After a failure the others need not wait for the next one too.
        if not 0 <= now - self._failed <= _FRESH_S:
            try:
                return await self._looked_up(sha256)
            except LedgerUnavailable:
                self._failed = self._clock()
        seen = self._valid.get(sha256)
        if seen and 0 <= now - seen.when <= _STALE_S:
            return seen.key
        raise LedgerUnavailable("API keys cannot be checked; try again shortly")

    async def _looked_up(self, sha256: str) -> Key | None:
        """Looked up once for all who ask meanwhile; one who leaves does not end it."""
        task = self._under_way.get(sha256)
        if task is None:
            lane = contextlib.nullcontext() if self.is_valid(sha256) else self._stranger()
            # A context of its own: Serve would take it for a part of the request that asks first.
            task = asyncio.create_task(self._read(sha256, lane), context=Context())
            self._under_way[sha256] = task
            task.add_done_callback(lambda done: self._done(sha256, done))
        return await asyncio.shield(task)

    def _done(self, sha256: str, task: asyncio.Task[Key | None]) -> None:
        del self._under_way[sha256]
        if not task.cancelled():
            task.exception()  # seen, even where all who asked have left

    async def _read(
        self, sha256: str, lane: contextlib.AbstractAsyncContextManager[None]
    ) -> Key | None:
        async with lane:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    key = await self._keys.find(sha256)
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                log.error("keys cannot be looked up: %r", error)
                raise LedgerUnavailable("API keys cannot be checked; try again shortly") from error
        now = self._clock()
        if key is not None and key.state(now) == "valid":
            self._valid[sha256] = _Seen(now, key)
            self._refused.pop(sha256, None)
            return key
        self._valid.pop(sha256, None)
        self._refused[sha256] = _Seen(now, key)
        if len(self._refused) > _REFUSED:
            self._refused.popitem(last=False)
        return key

    @contextlib.asynccontextmanager
    async def _stranger(self) -> AsyncIterator[None]:
        """A place among the few look-ups of keys that nobody knows."""
        if self._queued >= _QUEUE:
            raise _full()
        self._queued += 1
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._strangers.acquire()
        except TimeoutError:
            raise _full() from None
        finally:
            self._queued -= 1
        try:
            yield
        finally:
            self._strangers.release()


def _full() -> Overloaded:
    return Overloaded("too many API keys are being checked; try again shortly", retry_after_s=1.0)
