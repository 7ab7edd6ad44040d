"""What each road is worth for a query: by the outcomes of its kinds, by length and by price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.domain import Route, Term
from serve_app.ledger.prices import PriceTable
from serve_app.router.heads import Signals
from serve_app.router.outcomes import Outcomes
from serve_app.settings import Settings

# What a model that looks up what is new makes of a question whose answer changes.
_LIVE = {"changing": "open"}


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for each token of a road's model."""

    prompt_usd: float
    completion_usd: float


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the roads beside the policy.

    Attributes:
        outcomes: How likely each succeeds, and how long its answers are.
        prices: Of the model that answers on each.
        roads: The road of each intent.
    """

    outcomes: Outcomes
    prices: Mapping[Route, Price]
    roads: Mapping[str, Route]

    def terms(
        self,
        kinds: Mapping[str, float],
        signals: Signals,
        worth_usd: float,
        tokens: int,
        *,
        live_frontier: bool,
    ) -> dict[Route, Term]:
        """What each road is worth.

        Args:
            tokens: Of the conversation, about.
            live_frontier: The frontier's model finds out by itself what is new.
        """
        found = {}
        for road in Route:
            seen = _merged(kinds) if live_frontier and road is Route.FRONTIER else kinds
            success = self.outcomes.success(road, seen, signals)
            found[road] = Term(success, worth_usd, self._cost(road, tokens))
        return found

    def _cost(self, road: Route, tokens: int) -> float:
        known, price = self.outcomes.roads[road], self.prices[road]
        prompt = (tokens + known.added_tokens) * price.prompt_usd
        return prompt + known.completion_tokens * price.completion_usd


def _merged(kinds: Mapping[str, float]) -> dict[str, float]:
    merged = dict(kinds)
    for kind, other in _LIVE.items():
        merged[other] += merged.pop(kind)
    return merged


def prices(settings: Settings) -> dict[Route, Price]:
    """The prices of the models that answer on each road.

    Where no frontier is set, that of the model which answers are compared with.

    Raises:
        SettingsError: The price table is bad, or lacks one of them.
    """
    table = PriceTable.load(settings.ledger.prices, settings.ledger.machines)
    outside = [each.model for each in settings.frontier.upstreams if each.provider]
    frontier = outside[0] if outside else settings.ledger.baseline_model
    models = {
        Route.EXPERT: settings.expert.model,
        Route.KNOWLEDGE: settings.expert.model,
        Route.FRONTIER: frontier,
    }
    priced = {road: table.require(model) for road, model in models.items()}
    return {road: Price(row.input / 1e6, row.output / 1e6) for road, row in priced.items()}
