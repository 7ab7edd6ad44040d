"""What answers cost, and what they may cost."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from serve_app.settings.base import Name, Section


class LimitSettings(Section):
    """At most so much in each minute, day or month (UTC).

    Attributes:
        of: The house, each tenant, or each API key.
        name: Of one tenant or key; without it each one has so much of its own.
        tenant: Of the key that is named.
    """

    of: Literal["house", "tenant", "key"]
    name: Name | None = None
    tenant: Name | None = None
    per: Literal["minute", "day", "month"]
    requests: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    usd: Decimal | None = Field(default=None, ge=0, decimal_places=9, allow_inf_nan=False)

    @model_validator(mode="after")
    def _limits_something(self) -> LimitSettings:
        if self.requests is None and self.tokens is None and self.usd is None:
            raise ValueError("set requests, tokens or usd: this limits nothing")
        if self.of == "house" and self.name:
            raise ValueError("there is one house: leave name out")
        if (self.of == "key" and self.name is not None) != (self.tenant is not None):
            raise ValueError("tenant and name together name a key; without both it is every key")
        return self


class LedgerSettings(Section):
    """What answers cost, and what they may cost.

    Attributes:
        database: A SQLite file in `state_dir`, or `postgresql://user@host:port/name`, which more
            than one machine needs.
        password: Of the PostgreSQL user.
        at_limit: What is done when a road's cost does not fit: take the next road that does, or
            refuse.
        retention_days: How long answers and their calls are kept; reports go back no further.
            `null` keeps them for ever.
        prices: The price table: a YAML file, or what it would hold.
        machines: What our own machines cost now, as `trivium cost machines` writes it; it may come
            and change at any time. Without it, and where it says nothing, the price table holds.
    """

    database: str = "ledger.db"
    password: SecretStr = SecretStr("")
    limits: tuple[LimitSettings, ...] = ()
    at_limit: Literal["degrade", "refuse"] = "degrade"
    retention_days: int | None = Field(default=400, ge=1)
    prices: dict[str, Any] | Path = Path("configs/prices.yaml")
    machines: Path | None = None
    baseline_model: str = "gpt-4.1"
    baseline_context_tokens: int = Field(default=1200, ge=0)

    @field_validator("database")
    @classmethod
    def _no_password(cls, value: str) -> str:
        address, _, query = value.partition("?")
        if ":" in address.partition("://")[2].rpartition("@")[0] or "password" in query:
            raise ValueError("the password does not belong here; set ledger.password to it")
        return value

    def resolved(self, root: Path, state: Path) -> LedgerSettings:
        """The same with paths made absolute."""
        inside = "://" not in self.database
        database = str(state / self.database) if inside else self.database
        prices = root / self.prices if isinstance(self.prices, Path) else self.prices
        machines = self.machines and root / self.machines
        update = {"database": database, "prices": prices, "machines": machines}
        return self.model_copy(update=update)
