"""The HTTP face: where it listens, whom it lets in, how much at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serve_app.settings.base import Name, Scaling, Seconds, Section


class ApiKey(Section):
    """A client of the gateway. The key itself is never in a file, only its SHA-256 in hex."""

    name: Name
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: Name = "default"
    scopes: frozenset[Literal["chat", "ingest"]] = frozenset({"chat"})


_ORIGIN = r"^(\*|https?://[^/\s?#@*]+)$"


class GatewaySettings(Section):
    """The HTTP face.

    Attributes:
        open: Requests need no key: whoever reaches the gateway may do everything as the tenant
            `default`. A key that is sent still says who it is.
        cors_origins: Web pages of these origins (`https://app.example.com`) may call the API from a
            browser; `*` is every page. None by default.
        request_timeout_s: When an answer must be finished. A model that reasons takes minutes.
        max_concurrent_requests: Questions that a replica answers at once. Beside them it serves a
            quarter as many other requests: searches, documents, decisions.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    request_timeout_s: Seconds = 300.0
    keep_alive_s: Seconds = 10.0
    max_body_bytes: int = Field(default=2_000_000, ge=1024)
    max_concurrent_requests: int = Field(default=64, ge=1)
    open: bool = False
    api_keys: tuple[ApiKey, ...] = ()
    cors_origins: tuple[Annotated[str, Field(pattern=_ORIGIN)], ...] = ()
    scaling: Scaling = Scaling(max_ongoing_requests=4096, max_queued_requests=-1, num_cpus=0.2)

    @property
    def places(self) -> int:
        """Requests that are no questions, at once: they take no place of one."""
        return max(1, self.max_concurrent_requests // 4)
