"""Metrics of the house, by `ray.serve.metrics`: exported where Ray exports its own.

Label values come from small closed sets (roads, models, statuses), never from callers.
"""

from __future__ import annotations

from ray.serve.metrics import Counter, Histogram

from serve_app.domain import Cost, Decision, ModelCall


class GatewayMetrics:
    """What a gateway replica counts."""

    def __init__(self) -> None:
        self._answers = Counter(
            "trivium_answers_total",
            "Answers by road, how they ended and whether another road stood in.",
            tag_keys=("route", "outcome", "degraded"),
        )
        self._tokens = Counter(
            "trivium_tokens_total",
            "Tokens by model and kind.",
            tag_keys=("model", "kind"),
        )
        self._cost = Counter(
            "trivium_cost_usd_total", "Dollars spent on answers.", tag_keys=("route",)
        )
        self._baseline = Counter(
            "trivium_baseline_usd_total",
            "Dollars that a RAG-only stack would have spent; an estimate.",
            tag_keys=("route",),
        )
        self._router = Histogram(
            "trivium_router_latency_ms",
            "Time in the router replica.",
            boundaries=[1, 2, 5, 10, 20, 50, 100, 500],
        )

    def answered(
        self,
        decision: Decision,
        outcome: str,
        degraded: bool,
        calls: list[ModelCall],
        cost: Cost,
    ) -> None:
        """Count one answer. `outcome` is `ok`, `failed` or `disconnected`."""
        route = {"route": decision.route.value}
        self._answers.inc(1, {**route, "outcome": outcome, "degraded": str(degraded).lower()})
        for call in calls:
            for kind, count in (
                ("prompt", call.usage.prompt_tokens),
                ("completion", call.usage.completion_tokens),
            ):
                if count:
                    self._tokens.inc(count, {"model": call.model, "kind": kind})
        for counter, dollars in (
            (self._cost, cost.total),
            (self._baseline, cost.baseline),
        ):
            if dollars:
                counter.inc(dollars, route)
        if decision.stage != "pinned":
            self._router.observe(decision.latency_ms)
