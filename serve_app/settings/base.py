"""What every section of the settings is made of."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from serve_app.domain import EVERY_GROUP, WARM_UP

Seconds = Annotated[float, Field(gt=0)]
NAME = r"^[^\x00-\x1f]{1,64}$"  # of tenants and keys
GROUP = r"[^\x00-\x1f\x7f\"'\\,*]{1,64}"


def _not_the_house(name: str) -> str:
    if name == WARM_UP:
        raise ValueError("is what the house calls itself; choose another name")
    return name


Name = Annotated[str, Field(pattern=NAME), AfterValidator(_not_the_house)]


def _group(name: str) -> str:
    if name != EVERY_GROUP and not re.fullmatch(GROUP, name):
        raise ValueError(
            f"{name!r} is no group: 1 to 64 characters, none of control, no quotes, commas or "
            f"backslashes; {EVERY_GROUP!r} is every group"
        )
    return name


Group = Annotated[str, AfterValidator(_group)]


class Section(BaseModel):
    """Read-only, and without keys that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Scaling(Section):
    """Replicas, queues and resources of one deployment (Ray Serve's own terms).

    Attributes:
        upscale_delay_s, downscale_delay_s: So long there must be too many requests for the replicas
            until one is added, and too few until one is taken away.
        max_surge_percent: While a change replaces replicas, so many new ones come before old ones
            leave. 0 where there is no room for both: the old ones leave first.
    """

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=8, gt=0)
    upscale_delay_s: float = Field(default=30, ge=0)
    downscale_delay_s: float = Field(default=600, ge=0)
    max_ongoing_requests: int = Field(default=64, ge=1)
    max_queued_requests: int = Field(default=128, ge=-1)
    num_cpus: float = Field(default=0.1, ge=0)
    num_gpus: float = Field(default=0, ge=0)
    max_surge_percent: int = Field(default=100, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Scaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})"
            )
        return self


class Fetching(Section):
    """What callers may have us fetch, and from where.

    Attributes:
        hosts: From which hosts: `cdn.example.com`, `*.example.com`, or with a port,
            `files.example.com:8443`. From none, if empty.
        max_bytes: Most of one thing.
        timeout_s: How long that may take.
    """

    hosts: tuple[str, ...] = ()
    max_bytes: int = Field(ge=1024)
    timeout_s: Seconds

    @field_validator("hosts")
    @classmethod
    def _named(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(
                r"(\*\.)?([a-z0-9-]+\.)+[a-z0-9-]*[a-z][a-z0-9-]*(:\d{1,5})?", host
            ):
                raise ValueError(f"{host!r}: name a host in lower case, as cdn.example.com")
        return hosts

    def takes(self, host: str) -> bool:
        """Whether a host (and port, if it is not the usual one) is one of them."""
        return any(
            host.endswith(each[1:]) if each.startswith("*.") else host == each
            for each in self.hosts
        )
