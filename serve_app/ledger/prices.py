"""The price table: dollars per token for models that bill by token, per hour for our own.

A model of our own has no price list: it costs what its machine costs. Its token price is
`usd_per_hour / 3600 / tokens_per_second / utilisation`, where the rates are measured at
saturation and `utilisation` is the share of paid time the replica is busy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.domain import Usage
from serve_app.errors import SettingsError

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


class PriceTable:
    """Prices by model name.

    Args:
        metered: Of others' models, who send a bill.
        compute: Of models on machines of our own, which are paid for whether they work or not.
    """

    def __init__(
        self, metered: Mapping[str, TokenPrice], compute: Mapping[str, ComputePrice]
    ) -> None:
        self._compute = dict(compute)
        own = {name: row.as_tokens() for name, row in compute.items()}
        self._prices = {**metered, **own}

    @classmethod
    def load(cls, path: Path) -> PriceTable:
        """Read `prices.yaml`.

        Raises:
            SettingsError: The file is missing or a row is not a price; names the row.
        """
        try:
            table = _Table.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SettingsError(f"{path}: cannot be read: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            row = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"{path}: {row}: {first['msg']}") from None
        return cls(table.metered, table.compute)

    def stale(self, models: Iterable[str], today: date) -> list[str]:
        """Those of some models whose price was read too long ago to be trusted, with the date."""
        priced = {model: self._prices[model].as_of for model in models if model in self._prices}
        return [
            f"{model} ({as_of})"
            for model, as_of in sorted(priced.items())
            if (today - as_of).days > _STALE_DAYS
        ]

    def get(self, model: str) -> TokenPrice | None:
        """The price of `model`, or None where a report can do without it."""
        return self._prices.get(model)

    def require(self, model: str) -> TokenPrice:
        """The price of `model`; a guess would falsify every report, so there is none.

        Raises:
            SettingsError: No row for it.
        """
        price = self._prices.get(model)
        if price is None:
            raise SettingsError(
                f"no price for model {model!r}: add a row under `metered` or `compute` "
                f"of the price table (it has: {', '.join(sorted(self._prices))})"
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
        return self._compute[model].usd_per_hour

    def is_metered(self, model: str) -> bool:
        """Whether somebody else sends a bill for it."""
        return model not in self._compute
