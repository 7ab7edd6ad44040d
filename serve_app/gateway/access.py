"""Who may do what: API keys, and how many may do it at once."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from serve_app.errors import Overloaded, PermissionDenied, Unauthenticated
from serve_app.settings import ApiKey


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
    """The keys of the house. Without any, everybody may do everything: a laptop's default."""

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self._keys = keys

    def principal(self, authorization: str | None) -> Principal:
        """Who sent this `Authorization` header.

        Raises:
            Unauthenticated: No bearer key, or none that is known.
        """
        if not self._keys:
            return _ANYBODY
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthenticated("send an API key: `Authorization: Bearer <key>`")
        digest = hashlib.sha256(key.strip().encode()).hexdigest()
        for known in self._keys:
            if hmac.compare_digest(digest, known.sha256):
                return Principal(known.name, known.tenant, frozenset(known.scopes))
        raise Unauthenticated("this API key is not known")


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
