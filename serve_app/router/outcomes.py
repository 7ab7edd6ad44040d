"""How likely each road answers a query well, and with how many tokens: learned from outcomes.

A query is of one of five kinds, each with a probability that the signals give:

    task        work that an intent of the expert's names
    reasoning   work that an intent of the frontier's names
    covered     a question that the tenant's knowledge base speaks of
    changing    another question whose answer changes
    open        any other question, which a model has to know the answer of by itself

For each road and kind the log-odds of success are an offset, and a slope for the logit of the
query's complexity that a road has for all kinds. `training.outcomes` fits them to recorded
outcomes; an installation's own outcomes move them from where they were (`trivium calibrate`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.domain import Route
from serve_app.plain_data import validated, yaml_file
from serve_app.router.coverage import UNTOLD
from serve_app.router.heads import Signals

SHIPPED = Path(__file__).with_name("outcomes.yaml")
KINDS = ("task", "reasoning", "covered", "changing", "open")

_LEAST = 1e-6


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RoadOutcomes(_Part):
    """What is known of a road.

    Attributes:
        offsets: Log-odds of success by kind, for a query of complexity one half.
        slope: What they change by with the logit of the complexity.
        unread: What they change by where the router's encoder can read nothing of the query.
        completion_tokens: Of an answer, on average.
        added_tokens: Of its prompts beside the conversation: evidence, instructions.
    """

    offsets: dict[str, float]
    slope: float
    unread: float = 0.0
    completion_tokens: float = Field(ge=0)
    added_tokens: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.offsets) != set(KINDS):
            raise ValueError(f"offsets must name {', '.join(KINDS)}")
        return self


class Outcomes(_Part):
    """What is known of all roads.

    Attributes:
        roads: By road.
        sharpness: The power to which the intents' shares are taken: what is likely of one kind
            counts as that kind.
        learned_from: Rows by source, for people.
    """

    roads: dict[Route, RoadOutcomes]
    sharpness: float = Field(default=3.0, ge=1)
    learned_from: dict[str, int] = {}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if missing := set(Route) - set(self.roads):
            raise ValueError(f"roads: {', '.join(sorted(missing))} is missing")
        return self

    @cached_property
    def version(self) -> str:
        """The same for the same outcomes, wherever they were read from."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def shares(self, signals: Signals, roads: Mapping[str, Route]) -> dict[Route, float]:
        """The probability that a query is the expert's work, the frontier's, or a question.

        Args:
            roads: The road of each intent. What belongs to no intent is a question.
        """
        own = dict.fromkeys(Route, 0.0)
        for intent, share in signals.fit.items():
            own[roads[intent]] += share
        own[Route.KNOWLEDGE] = max(0.0, 1.0 - own[Route.EXPERT] - own[Route.FRONTIER])
        powers = {road: (share + _LEAST) ** self.sharpness for road, share in own.items()}
        total = sum(powers.values())
        return {road: power / total for road, power in powers.items()}

    def kinds(self, shares: Mapping[Route, float], signals: Signals) -> dict[str, float]:
        """The probability of each kind; they sum to 1."""
        covered = UNTOLD if signals.coverage is None else signals.coverage
        asks = shares[Route.KNOWLEDGE]
        return {
            "task": shares[Route.EXPERT],
            "reasoning": shares[Route.FRONTIER],
            "covered": asks * covered,
            "changing": asks * (1 - covered) * signals.volatility,
            "open": asks * (1 - covered) * (1 - signals.volatility),
        }

    def success(self, road: Route, kinds: Mapping[str, float], signals: Signals) -> float:
        """The probability that a road answers well."""
        known = self.roads[road]
        moved = known.slope * logit(signals.complexity) + known.unread * (1 - signals.read)
        return sum(
            share / (1.0 + math.exp(-(known.offsets[kind] + moved)))
            for kind, share in kinds.items()
        )


def logit(share: float) -> float:
    """Log-odds, bounded."""
    inside = min(max(share, 0.02), 0.98)
    return math.log(inside / (1 - inside))


def load_outcomes(outcomes: Path | Mapping[str, Any] | None) -> Outcomes:
    """What is known of the roads.

    Args:
        outcomes: A file, or what it would hold; `None` is the one that comes along.

    Raises:
        SettingsError: The file is missing, not YAML, or a key is wrong; says which and why.
    """
    if isinstance(outcomes, Mapping):
        data, source = outcomes, "router.outcomes"
    else:
        path = outcomes or SHIPPED
        data, source = yaml_file(path, "the outcomes "), str(path)
    return validated(Outcomes, data, source)
