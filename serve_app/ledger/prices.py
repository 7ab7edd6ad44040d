"""The price table: dollars per token for models that bill by token, per hour for our own.

A model of our own has no price list: it costs what its machine costs. Its token price is
`usd_per_hour / 3600 / tokens_per_second / utilisation`, where the rates are measured at
saturation and `utilisation` is the share of paid time the replica is busy. On a cluster, what the
machine costs per hour is known better than the table does, and stands for it (`ledger.machines`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.domain import Usage
from serve_app.errors import SettingsError
from serve_app.ledger.machines import MachinePrice, Machines, NodePrice
from serve_app.plain_data import yaml_file

_STALE_DAYS = 120  # providers change their prices a few times a year

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenPrice(_Row):
    """Published price of a metered model, in dollars per million tokens."""

    input: NonNegative
    output: NonNegative
    cached_input: NonNegative | None = None
    source: str
    as_of: date


class ComputePrice(_Row):
    """Price of a machine of our own and how fast the model runs on it at saturation.

    A model that only reads, such as an embedding model, has no completion rate.
    """

    usd_per_hour: NonNegative
    prompt_tokens_per_second: Positive
    completion_tokens_per_second: Positive | None = None
    utilisation: Annotated[float, Field(gt=0, le=1)]
    source: str
    as_of: date

    def seconds(self, usage: Usage) -> float:
        """Machine time of a call at saturation, idle time left out."""
        reading = (usage.prompt_tokens - usage.cached_tokens) / self.prompt_tokens_per_second
        rate = self.completion_tokens_per_second
        return reading + (usage.completion_tokens / rate if rate else 0.0)

    def as_tokens(self) -> TokenPrice:
        per_second = self.usd_per_hour / 3600 / self.utilisation
        return TokenPrice(
            input=per_second / self.prompt_tokens_per_second * 1e6,
            output=per_second / self.completion_tokens_per_second * 1e6
            if self.completion_tokens_per_second
            else 0.0,
            source=self.source,
            as_of=self.as_of,
        )


class _Table(_Row):
    metered: dict[str, TokenPrice]
    compute: dict[str, ComputePrice]
    nodes: dict[str, NodePrice] = Field(default_factory=dict)
    gpus: dict[str, NodePrice] = Field(default_factory=dict)


class PriceTable:
    """Prices by model name.

    Args:
        metered: Of others' models, who send a bill.
        compute: Of models on machines of our own, which are paid for whether they work or not.
        machines: What those machines cost now, where a cluster tells.
        nodes: Of machines by instance type, which no model names.
        gpus: Of one GPU by product, where a machine has no instance type.
    """

    def __init__(
        self,
        metered: Mapping[str, TokenPrice],
        compute: Mapping[str, ComputePrice],
        machines: Machines | None = None,
        nodes: Mapping[str, NodePrice] | None = None,
        gpus: Mapping[str, NodePrice] | None = None,
    ) -> None:
        self._metered = dict(metered)
        self._compute = dict(compute)
        self._machines = machines
        self.nodes = dict(nodes or {})
        self.gpus = dict(gpus or {})

    @classmethod
    def load(cls, prices: Path | Mapping[str, Any], machines: Path | None = None) -> PriceTable:
        """Read `prices.yaml`, and follow the file of what machines cost now.

        Args:
            prices: The file, or what it would hold.

        Raises:
            SettingsError: The file is missing or a row is not a price; names the row.
        """
        place = prices if isinstance(prices, Path) else "ledger.prices"
        try:
            table = _Table.model_validate(yaml_file(prices) if isinstance(prices, Path) else prices)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            row = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"{place}: {row}: {first['msg']}") from None
        now = machines and Machines(machines)
        return cls(table.metered, table.compute, now or None, table.nodes, table.gpus)

    def stale(self, models: Iterable[str], today: date) -> list[str]:
        """Those of some models whose price was read too long ago to be trusted, with the date."""
        prices = {model: price for model in models if (price := self.get(model))}
        return [
            f"{model} ({price.as_of})"
            for model, price in sorted(prices.items())
            if (today - price.as_of).days > _STALE_DAYS
        ]

    def get(self, model: str) -> TokenPrice | None:
        """The price of `model`, or None where a report can do without it."""
        if model in self._compute:
            return self._own(model).as_tokens()
        return self._metered.get(model)

    def require(self, model: str) -> TokenPrice:
        """The price of `model`; a guess would falsify every report, so there is none.

        Raises:
            SettingsError: No row for it.
        """
        price = self.get(model)
        if price is None:
            names = sorted({*self._metered, *self._compute})
            raise SettingsError(
                f"no price for model {model!r}: add a row under `metered` or `compute` "
                f"of the price table (it has: {', '.join(names)})"
            )
        return price

    def of(self, model: str, usage: Usage) -> float:
        """Dollars of one call."""
        price = self.require(model)
        cached = price.input if price.cached_input is None else price.cached_input
        fresh = usage.prompt_tokens - usage.cached_tokens
        return (
            fresh * price.input
            + usage.cached_tokens * cached
            + usage.completion_tokens * price.output
        ) / 1e6

    def nanos(self, model: str, usage: Usage) -> int:
        """The same in whole nanodollars, rounded up: never less than the bill."""
        return math.ceil(round(self.of(model, usage) * 1e9, 3))

    def machine_seconds(self, model: str, usage: Usage) -> float:
        """How long a machine of our own was busy with a call; 0 for others' models."""
        row = self._compute.get(model)
        return row.seconds(usage) if row else 0.0

    def usd_per_hour(self, model: str) -> float:
        """Of a machine of our own that serves a model."""
        return self._own(model).usd_per_hour

    def is_metered(self, model: str) -> bool:
        """Whether somebody else sends a bill for it."""
        return model not in self._compute

    def _own(self, model: str) -> ComputePrice:
        """A row of `compute`, with what its machine costs now."""
        row = self._compute[model]
        now: MachinePrice | None = self._machines.now().get(model) if self._machines else None
        return row.model_copy(update=now.model_dump()) if now else row
