"""Who may do what: API keys, and how many may do it at once."""

from __future__ import annotations

import contextlib
import hmac
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve_app.domain import EVERY_GROUP
from serve_app.errors import Overloaded, PermissionDenied, TooManyFailures, Unauthenticated
from serve_app.gateway.lookups import LookUps
from serve_app.gateway.throttle import Failures
from serve_app.ledger.keys import PREFIX, Keys, digest, is_possible
from serve_app.settings import ApiKey

_UNKNOWN = "this API key is not known"
_BUSY_S = 1.0


@dataclass(frozen=True, slots=True)
class Principal:
    """The client behind a request.

    Attributes:
        groups: Whose documents it reads, beside those that are for everybody.
    """

    name: str
    tenant: str
    scopes: frozenset[str]
    groups: frozenset[str] = frozenset()

    def require(self, *scopes: str) -> None:
        """Raises `PermissionDenied` unless the key has one of the scopes."""
        if self.scopes.isdisjoint(scopes):
            raise PermissionDenied(
                f"this API key may not {' or '.join(scopes)}; ask for one with that scope"
            )


# Who opens the house to everybody has no secrets from anybody.
_ANYBODY = Principal(
    "anonymous", "default", frozenset({"chat", "ingest"}), frozenset({EVERY_GROUP})
)


class Keyring:
    """The keys of the house: those of the settings, and those of the ledger.

    Args:
        is_open: Who sends no key may do everything. SDKs that must have a key send one that is none
            of ours, such as `none`: that counts as no key.
        clock: Unix seconds.
    """

    def __init__(
        self,
        listed: tuple[ApiKey, ...],
        keys: Keys,
        *,
        is_open: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._listed = listed
        self._is_open = is_open
        self._clock = clock
        self._look_ups = LookUps(keys, clock)
        self._failures = Failures(clock)

    async def principal(self, authorization: str | None, address: str = "") -> Principal:
        """Who sent this `Authorization` header from this client address.

        Raises:
            Unauthenticated: No bearer key, none that is known, or one that is over.
            TooManyFailures: The address has sent too many wrong ones.
            LedgerUnavailable: It cannot be looked up.
        """
        scheme, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            if self._is_open:
                return _ANYBODY
            raise Unauthenticated("send an API key: `Authorization: Bearer <key>`")
        sent = digest(secret)
        for known in self._listed:
            if hmac.compare_digest(sent, known.sha256):
                return Principal(known.name, known.tenant, known.scopes, known.groups)
        if self._is_open and not secret.startswith(PREFIX):
            return _ANYBODY
        if not self._look_ups.is_valid(sent):
            self._may_try(secret, address)
        key = await self._look_ups.find(sent) if is_possible(secret) else None
        if key is None:
            raise self._refusal(_UNKNOWN, address)
        state = key.state(self._clock())
        if state != "valid":
            raise self._refusal(f"this API key is {state}; ask for a new one", address)
        return Principal(key.name, key.tenant, frozenset(key.scopes), frozenset(key.groups))

    def _may_try(self, secret: str, address: str) -> None:
        """An address that has been wrong too often has to wait. What may be a key has not, while
        look-ups are free: others behind the same proxy may have good ones.
        """
        wait = self._failures.wait_s(address)
        if not wait:
            return
        if not is_possible(secret):
            raise _too_many(wait)
        if self._look_ups.busy:
            raise _too_many(_BUSY_S)

    def _refusal(self, message: str, address: str) -> Unauthenticated | TooManyFailures:
        wait = self._failures.wait_s(address)
        self._failures.add(address)
        return _too_many(wait) if wait else Unauthenticated(message)


def _too_many(wait_s: float) -> TooManyFailures:
    return TooManyFailures(
        "too many wrong API keys have come from this address; try again later", retry_after_s=wait_s
    )


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
