"""What may be spent: by whom, in which stretch of time, in requests, tokens and dollars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

from serve_app.errors import BudgetExceeded
from serve_app.settings import LimitSettings

Per = Literal["minute", "day", "month"]
Counter = tuple[str, str]  # scope and period: the key of a row of `counters`

HOUSE = "house"
EACH = ("tenant:", "key:")  # scopes of limits that every tenant, or key, has for itself
_FORMATS: dict[Per, str] = {"minute": "%Y-%m-%dT%H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}
_LESS = ", or ask for less (max_completion_tokens)"
_SOON_S = 1.0  # what is held by others may be free again by then


@dataclass(frozen=True, slots=True)
class Payer:
    """Who asks: every answer counts for its key, its tenant and the house."""

    tenant: str
    key: str

    @property
    def scopes(self) -> tuple[str, str, str]:
        return (HOUSE, f"tenant:{self.tenant}", _of_key(self.tenant, self.key))


@dataclass(frozen=True, slots=True)
class Amount:
    """Requests, tokens and nanodollars together."""

    requests: int = 0
    tokens: int = 0
    nanos: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.requests + other.requests, self.tokens + other.tokens, self.nanos + other.nanos
        )

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            self.requests - other.requests, self.tokens - other.tokens, self.nanos - other.nanos
        )


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so much in each stretch of time, for the house or for each tenant or key.

    Attributes:
        scope: `house`, or what a payer's scope starts with: `tenant:`, `tenant:acme`, `key:`.
        requests, tokens, nanos: `None` where there is no limit.
    """

    scope: str
    per: Per
    requests: int | None = None
    tokens: int | None = None
    nanos: int | None = None

    @classmethod
    def of(cls, settings: LimitSettings) -> Limit:
        """As the settings have it."""
        match settings.of:
            case "house":
                scope = HOUSE
            case "tenant":
                scope = f"tenant:{settings.name or ''}"
            case "key":
                named = settings.name and settings.tenant
                scope = _of_key(settings.tenant or "", settings.name or "") if named else "key:"
        nanos = None if settings.usd is None else int(settings.usd * 10**9)
        return cls(scope, settings.per, settings.requests, settings.tokens, nanos)

    def covers(self, scope: str) -> bool:
        return scope.startswith(self.scope) if self.scope in EACH else scope == self.scope


@dataclass(slots=True)
class Balance:
    """A row of `counters`: what has been spent, and what is held for calls under way."""

    spent: Amount
    held: Amount


def _of_key(tenant: str, key: str) -> str:
    # Names have no control characters, so that no two keys share a scope.
    return f"key:{tenant}\x1f{key}"


def periods(moment: float) -> Mapping[Per, str]:
    """The minute, day and month of a Unix time, in UTC, as providers bill."""
    return _periods(int(moment // 60))


@lru_cache(maxsize=256)  # each answer asks for its minute some twenty times
def _periods(minute: int) -> Mapping[Per, str]:
    at = datetime.fromtimestamp(minute * 60, UTC)
    return {per: f"{at:{pattern}}" for per, pattern in _FORMATS.items()}


def counters(payer: Payer, moment: float) -> list[Counter]:
    """Every counter that something of this payer, at this time, counts in."""
    return [(scope, period) for scope in payer.scopes for period in periods(moment).values()]


def seconds_left(per: Per, moment: float) -> float:
    """Until the stretch of time around `moment` is over."""
    at = datetime.fromtimestamp(moment, UTC)
    start = at.replace(second=0, microsecond=0)
    match per:
        case "minute":
            end = start + timedelta(minutes=1)
        case "day":
            end = start.replace(hour=0, minute=0) + timedelta(days=1)
        case "month":
            first = start.replace(day=1, hour=0, minute=0)
            end = (first + timedelta(days=32)).replace(day=1)
    return (end - at).total_seconds()


def check(
    limits: Sequence[Limit],
    payer: Payer,
    moment: float,
    wanted: Amount,
    balances: dict[Counter, Balance],
) -> None:
    """Whether `wanted` fits, on top of what is spent and held.

    Raises:
        BudgetExceeded: It does not; says which limit, and when to try again: soon, if it is only
            what is held for others that stands in the way.
    """
    now = periods(moment)
    for limit, scope in _covering(limits, payer.scopes):
        balance = balances[(scope, now[limit.per])]
        for unit in ("requests", "tokens", "nanos"):
            most = getattr(limit, unit)
            if most is None or not (more := getattr(wanted, unit)):
                continue
            spent = getattr(balance.spent, unit)
            if spent + getattr(balance.held, unit) + more <= most:
                continue
            if more > most:
                raise BudgetExceeded(
                    f"this never fits into {_named(scope, unit, most)} per {limit.per}, so waiting "
                    "does not help: ask for less (max_completion_tokens), or for a higher limit"
                )
            waits = spent + more <= most
            after = _SOON_S if waits else seconds_left(limit.per, moment)
            held = ", part of which is held for answers under way" if waits else ""
            less = "" if unit == "requests" else _LESS
            raise BudgetExceeded(
                f"this does not fit into {_named(scope, unit, most)} per {limit.per}{held}; "
                f"try again later{less}",
                retry_after_s=after,
            )


def _covering(limits: Sequence[Limit], scopes: Iterable[str]) -> Iterable[tuple[Limit, str]]:
    return ((limit, scope) for limit in limits for scope in scopes if limit.covers(scope))


def _named(scope: str, unit: str, most: int) -> str:
    """A limit, in words for the caller: how much the house has is none of their business."""
    kind, _, _ = scope.partition(":")
    if kind == HOUSE:
        return "what this service may spend"
    amount = f"${most / 1e9:.9f}".rstrip("0").rstrip(".") if unit == "nanos" else f"{most} {unit}"
    return f"the limit of {'this API key' if kind == 'key' else 'your tenant'}, {amount}"
