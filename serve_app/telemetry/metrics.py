"""Metrics of the house, by `ray.serve.metrics`: exported where Ray exports its own.

Label values come from small closed sets (roads, models, statuses), never from callers.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve.metrics import Counter, Gauge, Histogram

from serve_app.domain import Cost, Decision, FormatOutcome, ModelCall, Release


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

        self._formats = Counter(
            "trivium_format_total",
            "Answers that an adapter's contract held for, by how they kept it: kept, repaired, "
            "broken, or cut by the bound on tokens.",
            tag_keys=("adapter", "outcome"),
        )

    def formatted(self, release: Release, outcome: FormatOutcome) -> None:
        """Count one answer under a contract."""
        self._formats.inc(1, {"adapter": release.name, "outcome": outcome})

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


class IndexMetrics:
    """How fresh the knowledge base is. Collections are named by callers, so they are no label."""

    def __init__(self) -> None:
        self._lag = Histogram(
            "trivium_index_lag_seconds",
            "From the time at which a document was true to when it could be found.",
            boundaries=[0.1, 0.5, 1, 2, 5, 15, 60, 300, 3600, 86400],
        )
        self._written = Gauge(
            "trivium_index_written_timestamp_seconds",
            "When documents were last written; the index's age is time() less this.",
        )
        self._chunks = Counter(
            "trivium_index_chunks_total", "Chunks written, embedded or not.", tag_keys=("embedded",)
        )

    def ingested(self, times: Sequence[float], now: float, chunks: int, embedded: int) -> None:
        """Count one ingest.

        Args:
            times: Unix seconds at which its documents were true, of those that say.
        """
        for moment in times:
            self._lag.observe(max(0.0, now - moment))
        self._written.set(now)
        for count, label in ((embedded, "true"), (chunks - embedded, "false")):
            if count:
                self._chunks.inc(count, {"embedded": label})
