"""Who may do what: API keys, and how many may do it at once."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from serve_app.errors import LedgerUnavailable, Overloaded, PermissionDenied, Unauthenticated
from serve_app.ledger.keys import Key, Keys, digest
from serve_app.settings import ApiKey

log = logging.getLogger(__name__)

_FRESH_S = 2.0  # a key that is revoked may be good for so long
_STALE_S = 300.0  # and for so long, while the ledger cannot be read
_PATIENCE_S = 2.0
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Principal:
    """The client behind a request."""

    name: str
    tenant: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raises `PermissionDenied` unless the key has the scope."""
        if scope not in self.scopes:
            raise PermissionDenied(f"this API key may not {scope}; ask for one with that scope")


_ANYBODY = Principal("anonymous", "default", frozenset({"chat", "ingest"}))


class Keyring:
    """The keys of the house: those of the settings, and those of the ledger.

    While there has never been one, everybody may do everything: a laptop's default.
    """

    def __init__(
        self,
        listed: tuple[ApiKey, ...],
        keys: Keys,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._listed = listed
        self._keys = keys
        self._clock = clock
        self._seen: dict[str, tuple[float, Key | None]] = {}  # by digest: when, and what
        self._locked: bool | None = bool(listed) or None  # None: nobody has looked yet
        self._looked = self._failed = -_STALE_S
        self._looking = asyncio.Lock()  # one looks, the others wait for what it finds

    async def principal(self, authorization: str | None) -> Principal:
        """Who sent this `Authorization` header.

        Raises:
            Unauthenticated: No bearer key, none that is known, or one that is over.
            LedgerUnavailable: It cannot be looked up.
        """
        if not await self._is_locked():
            return _ANYBODY
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthenticated("send an API key: `Authorization: Bearer <key>`")
        sent = digest(secret.strip())
        for known in self._listed:
            if hmac.compare_digest(sent, known.sha256):
                return Principal(known.name, known.tenant, frozenset(known.scopes))
        key = await self._find(sent)
        if key is None:
            raise Unauthenticated("this API key is not known")
        state = key.state(self._clock())
        if state != "valid":
            raise Unauthenticated(f"this API key is {state}; ask for a new one")
        return Principal(key.name, key.tenant, frozenset(key.scopes))

    async def _is_locked(self) -> bool:
        """Once there is a key there is no way back: the last one revoked opens no door."""
        if self._locked:
            return True
        async with self._looking:
            if not self._locked and not 0 <= self._clock() - self._looked <= _FRESH_S:
                self._looked = self._clock()
                try:
                    async with asyncio.timeout(_PATIENCE_S):
                        self._locked = await self._keys.any()
                except (SQLAlchemyError, OSError, TimeoutError) as error:
                    log.error("keys cannot be looked up: %r", error)
        if self._locked is None:
            raise LedgerUnavailable("API keys cannot be checked; try again shortly")
        return self._locked

    async def _find(self, sent: str) -> Key | None:
        now = self._clock()
        when, key = self._seen.get(sent, (-_STALE_S, None))
        if 0 <= now - when <= _FRESH_S:
            return key
        # After a failure the others need not wait for the next one too.
        if not 0 <= now - self._failed <= _FRESH_S:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    key = await self._keys.find(sent)
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                log.error("keys cannot be looked up: %r", error)
                self._failed = self._clock()
            else:
                if len(self._seen) >= _REMEMBERED:
                    self._seen.pop(next(iter(self._seen)))
                self._seen[sent] = (now, key)
                return key
        if key is not None and 0 <= now - when <= _STALE_S:
            return key
        raise LedgerUnavailable("API keys cannot be checked; try again shortly")


class Admission:
    """A bound on the requests a replica answers at once; what comes above it is told when to retry.

    Waiting in a queue that is longer than anybody's patience helps nobody: refusing early keeps
    the answers that are given inside their deadline.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._active = 0

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Raises `Overloaded` when the replica is full."""
        if self._active >= self._limit:
            raise Overloaded(
                f"{self._limit} requests are being answered; try again shortly",
                retry_after_s=1.0,
            )
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
