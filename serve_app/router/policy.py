"""From what is known of a query to a road: expected success times its worth, less expected cost.

The policy is data (`policy.yaml` beside this file is the default, and explains each key): what a
right answer is worth, and which roads some queries may not take. How likely each road is to succeed
and what it costs come from `outcomes` and `prices`. Of the roads that no pin takes away, the best
expected value wins.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.domain import Decision, Route
from serve_app.errors import SettingsError
from serve_app.pins import Pin, Pins
from serve_app.plain_data import validated, yaml_file
from serve_app.router import reasons
from serve_app.router.heads import Heads, Signals
from serve_app.router.value import Known

DEFAULT = Path(__file__).with_name("policy.yaml")

_ROADS = tuple(Route)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecondStage(_Part):
    """When a generative classifier is asked too, and how much it counts."""

    below: float = Field(default=0.0, ge=0, le=1)
    timeout_s: float = Field(default=0.5, gt=0)
    weight: float = Field(default=0.5, ge=0, le=1)


class Tenant(_Part):
    """What differs for one tenant. Its pins come on top of everybody's."""

    value_usd: float | None = Field(default=None, gt=0)
    pins: tuple[Pin, ...] = ()


_ANY = Tenant()


class Policy(_Part):
    """The whole policy; see `policy.yaml`."""

    value_usd: float = Field(gt=0)
    volatile_above: float = Field(default=0.5, ge=0, le=1)
    live_frontier: bool = False
    pins: tuple[Pin, ...] = ()
    tenants: dict[str, Tenant] = {}
    second_stage: SecondStage = SecondStage()

    @model_validator(mode="after")
    def _complete(self) -> Self:
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
        return (*self.pins, *self.tenants.get(tenant, _ANY).pins)

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
        known: Known,
        tenant: str,
        matched: Collection[str] = (),
        tokens: int = 0,
    ) -> Decision:
        """The road for these signals; `latency_ms` is left to the caller.

        Args:
            matched: Names of the pins whose expression is found in the conversation.
            tokens: Of the conversation, about.
        """
        shares = known.outcomes.shares(signals, known.roads)
        intended = self.intended(tenant, [signals])
        return self.choose(shares, signals, known, tenant, matched, intended, tokens)

    def choose(
        self,
        shares: Mapping[Route, float],
        signals: Signals,
        known: Known,
        tenant: str,
        matched: Collection[str],
        intended: tuple[str, ...],
        tokens: int,
        *,
        stage: str = "1",
        latency_ms: float = 0.0,
    ) -> Decision:
        """The road of best expected value among those that no pin forbids."""
        own = self.tenants.get(tenant, _ANY)
        kinds = known.outcomes.kinds(shares, signals)
        worth = own.value_usd or self.value_usd
        terms = known.terms(kinds, signals, worth, tokens, live_frontier=self.live_frontier)
        best = max(_ROADS, key=lambda road: terms[road].value_usd)
        pins = [pin for pin in self.pins_of(tenant) if pin.holds(matched, intended)]
        allowed = [r for r in _ROADS if not any(r in pin.never for pin in pins)]
        # Pins that together forbid every road leave the cheapest: it is in the house.
        allowed = allowed or [min(_ROADS, key=lambda road: terms[road].cost_usd)]
        route = max(allowed, key=lambda road: terms[road].value_usd)
        if route is best:
            reason = reasons.why(route, kinds, signals, terms)
        else:
            names = ", ".join(pin.name for pin in pins if best in pin.never)
            reason = f"{best.value} is barred ({names}); {route.value} is the next best"
        return Decision(
            route=route,
            scores=dict(shares),
            volatility=signals.volatility,
            complexity=signals.complexity,
            coverage=signals.coverage,
            kinds=kinds,
            fit=dict(signals.fit),
            in_scope=signals.in_scope,
            read=signals.read,
            volatile=signals.volatility >= self.volatile_above,
            confidence=terms[route].success,
            stage=stage,
            reason=reason,
            barred=tuple(road for road in _ROADS if road not in allowed),
            terms=terms,
            intended=intended,
            tokens=tokens,
            latency_ms=latency_ms,
        )

    def again(
        self,
        made: Decision,
        known: Known,
        tenant: str,
        matched: Collection[str],
        intended: tuple[str, ...],
        shares: Mapping[Route, float] | None = None,
    ) -> Decision:
        """A decision made anew, since more is known by now: of pins, or of the roads' shares."""
        chosen = self.choose(
            shares or {Route(road): share for road, share in made.scores.items()},
            Signals(
                made.fit, made.in_scope, made.volatility, made.complexity, made.read, made.coverage
            ),
            known,
            tenant,
            matched,
            intended,
            made.tokens,
            stage=made.stage,
            latency_ms=made.latency_ms,
        )
        return replace(chosen, usage=made.usage, versions=made.versions)


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
    return validated(Policy, data, source)
