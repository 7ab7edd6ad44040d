"""From signals to a road: expected success times its worth, less expected cost.

The policy is data (`policy.yaml` beside this file is the default, and explains each key). Signals
give the probability that each road is the query's own; a table says how often a road answers well
what belongs to another; pins take roads away. Of those that are left, the best expected value wins.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from serve_app.domain import Decision, Route, Term
from serve_app.errors import SettingsError
from serve_app.pins import Pin, Pins
from serve_app.plain_data import yaml_file
from serve_app.router.heads import Heads, Signals

DEFAULT = Path(__file__).with_name("policy.yaml")

_ROADS = tuple(Route)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Evidence(_Part):
    """How a signal moves a road's log-odds, from 0 (no evidence) at a signal of one half."""

    volatility: float = 0.0
    complexity: float = 0.0


class Road(_Part):
    """A road's price and its strength on each kind of query."""

    cost_usd: float = Field(ge=0)
    success: dict[Route, float]
    evidence: Evidence = Evidence()

    @field_validator("success")
    @classmethod
    def _shares(cls, success: dict[Route, float]) -> dict[Route, float]:
        if set(success) != set(Route):
            raise ValueError(f"must name {', '.join(Route)}")
        if not all(0 <= share <= 1 for share in success.values()):
            raise ValueError("must be shares from 0 to 1")
        return success


class SecondStage(_Part):
    """When a generative classifier is asked too, and how much it counts."""

    below: float = Field(default=0.0, ge=0, le=1)
    timeout_s: float = Field(default=0.5, gt=0)
    weight: float = Field(default=0.5, ge=0, le=1)


class Tenant(_Part):
    """What differs for one tenant. Its pins come on top of everybody's."""

    value_usd: float | None = Field(default=None, gt=0)
    pins: tuple[Pin, ...] = ()


class Policy(_Part):
    """The whole policy; see `policy.yaml`."""

    value_usd: float = Field(gt=0)
    volatile_above: float = Field(default=0.5, ge=0, le=1)
    roads: dict[Route, Road]
    pins: tuple[Pin, ...] = ()
    tenants: dict[str, Tenant] = {}
    second_stage: SecondStage = SecondStage()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if missing := set(Route) - set(self.roads):
            raise ValueError(f"roads: {', '.join(sorted(missing))} is missing")
        for name, tenant in {"everybody": Tenant(), **self.tenants}.items():
            always = [p for p in (*self.pins, *tenant.pins) if not p.intents and not p.matches]
            if frozenset[Route]().union(*(pin.never for pin in always)) == set(Route):
                raise ValueError(f"pins leave no road to {name}")
            # What is found of a pin is told by its name.
            counted = Counter(pin.name for pin in (*self.pins, *tenant.pins))
            if twice := sorted(pin for pin, times in counted.items() if times > 1):
                raise ValueError(
                    f"pins of {name}: {', '.join(twice)} is there twice: name each once"
                )
        return self

    def require(self, heads: Heads) -> None:
        """Raises `SettingsError` when a pin names an intent that the heads do not know.

        Such a pin would never hold, and nobody would notice.
        """
        pins = [*self.pins, *(pin for tenant in self.tenants.values() for pin in tenant.pins)]
        for pin in pins:
            if unknown := pin.intents - set(heads.roads):
                raise SettingsError(
                    f"policy: pin {pin.name!r} names the intent {', '.join(sorted(unknown))}, "
                    "which the heads do not know; declare it under router.intents, or mend the name"
                )

    @cached_property
    def version(self) -> str:
        """The same for the same policy, wherever it was read from."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    @property
    def all_pins(self) -> Pins:
        """The pins alone, as other parts of the house have them."""
        own = {name: tenant.pins for name, tenant in self.tenants.items() if tenant.pins}
        return Pins(everybody=self.pins, tenants=own)

    def pins_of(self, tenant: str) -> tuple[Pin, ...]:
        """All that may hold for a tenant."""
        return (*self.pins, *self.tenants.get(tenant, Tenant()).pins)

    def intended(self, tenant: str, said: Sequence[Signals]) -> tuple[str, ...]:
        """Names of a tenant's pins whose intents one of some turns has.

        What the encoder cannot read may be of any intent.
        """
        pins = [pin for pin in self.pins_of(tenant) if pin.intents]
        if not pins:
            return ()
        most = [{i: fit + 1 - turn.read for i, fit in turn.fit.items()} for turn in said]
        return tuple(pin.name for pin in pins if any(map(pin.intended, most)))

    def decide(
        self,
        signals: Signals,
        heads: Heads,
        tenant: str,
        matched: Collection[str] = (),
    ) -> Decision:
        """The road for these signals; `latency_ms` is left to the caller.

        Args:
            matched: Names of the pins whose expression is found in the conversation.
        """
        intended = self.intended(tenant, [signals])
        shares = self.shares(signals, heads)
        return self.choose(shares, signals, tenant, matched, intended)

    def shares(self, signals: Signals, heads: Heads) -> dict[Route, float]:
        """The probability that each road is the query's own; they sum to 1.

        What the encoder cannot read is as likely any road's.
        """
        fit = dict.fromkeys(_ROADS, 1e-6 + (1 - signals.read) / len(_ROADS))
        for intent, share in signals.fit.items():
            fit[heads.roads[intent]] += share
        powers = {
            road: fit[road]
            * math.exp(
                rule.evidence.volatility * (signals.volatility - 0.5)
                + rule.evidence.complexity * (signals.complexity - 0.5)
            )
            for road, rule in self.roads.items()
        }
        total = sum(powers.values())
        return {road: powers[road] / total for road in _ROADS}

    def choose(
        self,
        shares: Mapping[Route, float],
        signals: Signals,
        tenant: str,
        matched: Collection[str],
        intended: tuple[str, ...],
        *,
        stage: str = "1",
        latency_ms: float = 0.0,
    ) -> Decision:
        """The road of best expected value among those that no pin forbids."""
        own = self.tenants.get(tenant, Tenant())
        worth = own.value_usd or self.value_usd
        # Nobody knows that what cannot be read is worth nothing.
        worth *= signals.in_scope + 1 - signals.read
        terms = {
            road: Term(self._success(road, shares), worth, self.roads[road].cost_usd)
            for road in _ROADS
        }
        best = max(_ROADS, key=lambda road: terms[road].value_usd)
        pins = [pin for pin in self.pins_of(tenant) if pin.holds(matched, intended)]
        allowed = [r for r in _ROADS if not any(r in pin.never for pin in pins)]
        # Pins that together forbid every road leave the cheapest: it is in the house.
        allowed = allowed or [min(_ROADS, key=lambda road: self.roads[road].cost_usd)]
        route = max(allowed, key=lambda road: terms[road].value_usd)
        if route is best:
            reason = self._reason(route, shares, signals)
        else:
            names = ", ".join(pin.name for pin in pins if best in pin.never)
            reason = f"{best.value} is barred ({names}); {route.value} is the next best"
        return Decision(
            route=route,
            scores=dict(shares),
            volatility=signals.volatility,
            complexity=signals.complexity,
            fit=dict(signals.fit),
            in_scope=signals.in_scope,
            read=signals.read,
            volatile=signals.volatility >= self.volatile_above,
            confidence=shares[route],
            stage=stage,
            reason=reason,
            barred=tuple(road for road in _ROADS if road not in allowed),
            terms=terms,
            intended=intended,
            latency_ms=latency_ms,
        )

    def again(
        self,
        made: Decision,
        tenant: str,
        matched: Collection[str],
        intended: tuple[str, ...],
        shares: Mapping[Route, float] | None = None,
    ) -> Decision:
        """A decision made anew, since more is known by now: of pins, or of the roads' shares."""
        chosen = self.choose(
            shares or {Route(road): share for road, share in made.scores.items()},
            Signals(made.fit, made.in_scope, made.volatility, made.complexity, made.read),
            tenant,
            matched,
            intended,
            stage=made.stage,
            latency_ms=made.latency_ms,
        )
        return replace(chosen, usage=made.usage, versions=made.versions)

    def _success(self, road: Route, shares: Mapping[Route, float]) -> float:
        return sum(share * self.roads[road].success[kind] for kind, share in shares.items())

    def _reason(self, route: Route, shares: Mapping[Route, float], signals: Signals) -> str:
        if signals.read < 0.5:
            return (
                f"the router's encoder does not read this script ({signals.read:.0%} of the "
                f"letters): {route.value} has the best expected value when nothing is known"
            )
        match route:
            case _ if signals.in_scope < 0.5 and route is not max(shares, key=lambda r: shares[r]):
                return f"belongs to nothing declared (in scope {signals.in_scope:.2f}): cheapest"
            case Route.KNOWLEDGE if signals.volatility >= self.volatile_above:
                text = f"the answer changes with time (volatility {signals.volatility:.2f})"
            case Route.KNOWLEDGE:
                text = "asks for a fact to look up"
            case Route.FRONTIER:
                text = f"needs several steps of reasoning (complexity {signals.complexity:.2f})"
            case Route.EXPERT:
                text = "work on the given text that the expert does well"
        likely = max(shares, key=lambda road: shares[road])
        if likely is not route:
            return f"{text}, or {likely.value} ({shares[likely]:.2f}): worth its price in doubt"
        return f"{text} ({shares[route]:.2f})"


def load_policy(policy: Path | Mapping[str, Any] | None) -> Policy:
    """A policy.

    Args:
        policy: A file, or what it would hold; `None` is the one that comes along.

    Raises:
        SettingsError: The file is missing, not YAML, or a key is wrong; says which and why.
    """
    if isinstance(policy, Mapping):
        return parse_policy(policy, "router.policy")
    path = policy or DEFAULT
    return parse_policy(yaml_file(path, "the policy "), str(path))


def pins(policy: Path | Mapping[str, Any] | None) -> Pins:
    """The pins of a policy, as parts of the house have them that do not route.

    Raises:
        SettingsError: As `load_policy`.
    """
    return load_policy(policy).all_pins


def parse_policy(data: Any, source: str) -> Policy:
    """A policy from plain data.

    Raises:
        SettingsError: As `load_policy`.
    """
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        lines = [
            f"{source}: {'.'.join(map(str, item['loc']))}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError("\n".join(lines)) from None
