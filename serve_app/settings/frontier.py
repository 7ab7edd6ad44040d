"""The outside models: which ones, what is masked for them, and when they are left alone."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from serve_app.expressions import Expression
from serve_app.settings.base import Fetching, Scaling, Seconds, Section


class CircuitSettings(Section):
    """When a provider that keeps failing is left alone.

    Attributes:
        failures: So many in a row.
        rest_s: Then so long, before one request finds out whether it answers again.
    """

    failures: int = Field(default=5, ge=1)
    rest_s: Seconds = 10.0


class MaskSettings(Section):
    """What is masked before a prompt leaves the house, and restored in the answer.

    Attributes:
        kinds: Of what rules know; empty masks nothing but `patterns`.
        patterns: Regular expressions of your own, by the name their placeholders have.
        phone_region: Country (ISO 3166, `NO`) whose numbers are known without their prefix.
    """

    kinds: frozenset[Literal["email", "phone", "iban", "card", "secret"]] = frozenset(
        {"email", "phone", "iban", "card", "secret"}
    )
    patterns: dict[str, str] = Field(default_factory=dict)
    phone_region: str | None = Field(default=None, pattern=r"^[A-Z]{2}$")

    @field_validator("patterns")
    @classmethod
    def _expressions(cls, value: dict[str, str]) -> dict[str, str]:
        for name, pattern in value.items():
            if not re.fullmatch(r"[A-Z][A-Z0-9]{0,31}", name):
                raise ValueError(f"{name!r}: name it in capital letters and digits, as EMPLOYEE")
            try:
                Expression.of(pattern)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return value


class ImageSettings(Fetching):
    """Pictures that callers give an address of. We fetch them, and pass them on as data.

    Attributes:
        hosts: From none, if empty: pictures are taken as data alone.
        timeout_s: For all of a request, together.
        most: Pictures of one request.
    """

    max_bytes: int = Field(default=5_000_000, ge=1024)
    timeout_s: Seconds = 10.0
    most: int = Field(default=16, ge=1)


class UpstreamSettings(Section):
    """An outside model.

    Attributes:
        provider: The protocol: OpenAI's Chat Completions or Responses, or Anthropic's Messages.
        base_url: Of a server that speaks it: vLLM, Azure, OpenRouter, …
        key_from: Environment variable that holds its key; default: the one its SDK reads.
        max_concurrent: Calls at once, of one replica; those beyond go to the next model, or road.
        max_output_tokens: Most tokens of an answer, what a model thinks included; where it is less
            than the caller asks for, the answer says so.
    """

    provider: Literal["openai", "openai-responses", "anthropic"] | None = None
    model: str = ""
    base_url: str | None = None
    key_from: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    api_key: SecretStr = SecretStr("")
    max_concurrent: int | None = Field(default=None, ge=1)
    max_output_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _conventional_key(cls, data: Any) -> Any:
        """Each provider's key under the name that its own SDK reads."""
        if isinstance(data, dict) and data.get("provider") and data.get("api_key") is None:
            return {**data, "api_key": os.environ.get(key_variable(data), "")}
        return data

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.provider and not self.model:
            raise ValueError(f"provider is {self.provider!r}, so model must name one of its models")
        if self.provider and not self.api_key.get_secret_value():
            variable = key_variable({"provider": self.provider, "key_from": self.key_from})
            raise ValueError(f"provider is {self.provider!r}: set the environment's {variable}")
        return self


def key_variable(upstream: Mapping[str, Any]) -> str:
    """Environment variable with the key of an upstream that is given as plain data."""
    company = f"{upstream['provider']}".partition("-")[0]
    return upstream.get("key_from") or f"{company.upper()}_API_KEY"


def _patience(settings: dict[str, Any]) -> float:
    return min(120.0, float(settings.get("timeout_s", math.inf)) / 2)


class FrontierSettings(UpstreamSettings):
    """The outside model. Without `provider` the road is not configured, and says so.

    Attributes:
        fallbacks: Others that answer where it cannot, in their order.
        timeout_s: How long an answer may take in all; it ends with the request's own deadline.
        silence_s: How long nothing at all may come from the provider, at first or between two
            events, before it counts as failed. A model that thinks may say nothing for long: 120 s
            by default, and no more than half of `timeout_s`.
        max_output_tokens: Also of an answer for which the caller sets no bound: so much is held in
            the ledger for each.
        hedge_after_s: How long the first model may take to speak before the others are asked too;
            whoever speaks first answers, and both are paid. `None` asks one at a time.
        retries: Tries after the first, before the first byte and the deadline.
    """

    fallbacks: tuple[UpstreamSettings, ...] = ()
    timeout_s: Seconds = 300.0
    silence_s: Seconds = Field(default_factory=_patience)
    hedge_after_s: Seconds | None = None
    max_output_tokens: int = Field(default=16_384, ge=1)
    retries: int = Field(default=2, ge=0, le=10)
    circuit: CircuitSettings = CircuitSettings()
    mask: MaskSettings = MaskSettings()
    images: ImageSettings = ImageSettings()
    scaling: Scaling = Scaling(max_ongoing_requests=256, target_ongoing_requests=64)

    @property
    def upstreams(self) -> tuple[UpstreamSettings, ...]:
        """All of them, the first one first."""
        return (self, *self.fallbacks)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.fallbacks and not self.provider:
            raise ValueError("fallbacks stand in for a provider: set provider and model first")
        if not all(each.provider for each in self.fallbacks):
            raise ValueError("each of the fallbacks needs a provider")
        if self.provider and self.silence_s >= self.timeout_s:
            raise ValueError(
                f"silence_s ({self.silence_s:g}) must be below timeout_s ({self.timeout_s:g}), "
                "or no silence is ever noticed"
            )
        if self.hedge_after_s is not None:
            if not self.fallbacks:
                raise ValueError("hedge_after_s asks the fallbacks too: name at least one")
            if self.hedge_after_s >= self.silence_s:
                raise ValueError(
                    f"hedge_after_s ({self.hedge_after_s:g}) must be below silence_s "
                    f"({self.silence_s:g}): who has failed by then is not waited for anyway"
                )
        return self
