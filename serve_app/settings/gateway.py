"""The HTTP face: where it listens, whom it lets in, how much at once."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from serve_app.domain import EVERY_GROUP
from serve_app.settings.base import Fetching, Group, Name, Scaling, Seconds, Section


class ApiKey(Section):
    """A client of the gateway. The key itself is never in a file, only its SHA-256 in hex.

    Attributes:
        groups: Whose documents it reads, beside those that are for everybody; `*` is all of them.
    """

    name: Name
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: Name = "default"
    scopes: frozenset[Literal["chat", "ingest"]] = frozenset({"chat"})
    groups: frozenset[Group] = frozenset()


_FIRST_KEY_LENGTH = 32  # characters; it is kept as a hash, which a short one could be guessed from

_ORIGIN = r"^(\*|https?://[^/\s?#@*]+)$"


def _is(key: Any, digest: str) -> bool:
    """Whether an entry of `api_keys`, read or not, is of that digest."""
    kept = key.get("sha256") if isinstance(key, dict) else getattr(key, "sha256", None)
    return bool(kept == digest)


class IngestSettings(Fetching):
    """Jobs that fetch documents from addresses (`POST /v1/collections/{name}/ingest`).

    Attributes:
        hosts: From none, if empty: there are no such jobs then.
        max_urls: Of one job.
        max_jobs: Of one tenant that are not over.
    """

    max_bytes: int = Field(default=50_000_000, ge=1024)
    timeout_s: Seconds = 60.0
    max_urls: int = Field(default=1000, ge=1, le=10_000)
    max_jobs: int = Field(default=16, ge=1)


class GatewaySettings(Section):
    """The HTTP face.

    Attributes:
        open: Requests need no key: whoever reaches the gateway may do everything as the tenant
            `default`. A key that is sent still says who it is.
        first_key: A key that is let in before any has been made, as `first`, to ask and to ingest.
            It belongs into the environment; what is kept of it is its hash, among `api_keys`.
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
    first_key: SecretStr = SecretStr("")
    api_keys: tuple[ApiKey, ...] = ()
    cors_origins: tuple[Annotated[str, Field(pattern=_ORIGIN)], ...] = ()
    ingest: IngestSettings = IngestSettings()
    scaling: Scaling = Scaling(max_ongoing_requests=4096, max_queued_requests=-1, num_cpus=0.2)

    @model_validator(mode="before")
    @classmethod
    def _first(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not data.get("first_key"):
            return data
        others = data.get("api_keys") or ()
        if not isinstance(others, list | tuple):
            return data
        given = data["first_key"]
        secret = given.get_secret_value() if isinstance(given, SecretStr) else str(given)
        if len(secret) < _FIRST_KEY_LENGTH:
            raise ValueError(
                f"first_key must have at least {_FIRST_KEY_LENGTH} characters: "
                "`openssl rand -hex 24` makes one"
            )
        digest = hashlib.sha256(secret.encode()).hexdigest()
        first = ApiKey(
            name="first",
            sha256=digest,
            scopes=frozenset({"chat", "ingest"}),
            groups=frozenset({EVERY_GROUP}),
        )
        kept = [each for each in others if not _is(each, digest)]
        return {**data, "first_key": "", "api_keys": [first, *kept]}

    @property
    def places(self) -> int:
        """Requests that are no questions, at once: they take no place of one."""
        return max(1, self.max_concurrent_requests // 4)
