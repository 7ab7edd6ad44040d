"""Metrics of the house, by `ray.serve.metrics`: exported where Ray exports its own.

Label values come from small closed sets (roads, models, codes, what the settings name), never from
callers. docs/metrics.md lists them all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from serve_app.domain import Cost, Decision, FormatOutcome, ModelCall, Release
from serve_app.errors import InternalError, Overloaded, TriviumError

Reading = tuple[Mapping[str, str], float]  # labels and value

_REPEAT_S = 5.0


class GatewayMetrics:
    """What a gateway replica counts."""

    def __init__(self) -> None:
        self._answers = Counter(
            "trivium_answers_total",
            "Answers by road, how they ended and whether another road stood in.",
            tag_keys=("route", "outcome", "degraded"),
        )
        self._seconds = Histogram(
            "trivium_answer_seconds",
            "From a request to the end of its answer, of those that came to it.",
            boundaries=[0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120],
            tag_keys=("route",),
        )
        self._degraded = Counter(
            "trivium_degraded_total",
            "Why answers were degraded: a part and an error code, as in x-trivium-degraded.",
            tag_keys=("reason",),
        )
        self._failures = Counter(
            "trivium_failures_total",
            "Questions without an answer, by error code and whose fault it was.",
            tag_keys=("code", "fault"),
        )
        self._judged = Counter(
            "trivium_judged_total",
            "Answers that were judged, by whom and how.",
            tag_keys=("judge", "verdict"),
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
            "Dollars that a RAG-only stack would have spent on the same answers; an estimate.",
            tag_keys=("route",),
        )
        self._overclaimed = Counter(
            "trivium_ledger_overclaimed_total",
            "Calls for which a provider claims more than was held for them.",
            tag_keys=("model",),
        )
        self._decisions = Counter(
            "trivium_decisions_total",
            "Where questions were sent, and by which stage.",
            tag_keys=("route", "stage"),
        )
        self._router = Histogram(
            "trivium_router_latency_ms",
            "Time in the router replica.",
            boundaries=[1, 2, 5, 10, 20, 50, 100, 500],
        )
        self._confidence = Histogram(
            "trivium_router_confidence",
            "Probability that the road chosen is the query's own.",
            boundaries=[0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1],
        )
        self._first = Histogram(
            "trivium_first_token_seconds",
            "From a call of a model to its first text, as the gateway sees it.",
            boundaries=[0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60],
            tag_keys=("model",),
        )
        self._token = Histogram(
            "trivium_token_seconds",
            "Time for each token after the first text, of one answer of a model.",
            boundaries=[0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1],
            tag_keys=("model",),
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

    def overclaimed(self, model: str) -> None:
        """Count one call that a provider claims too much for."""
        self._overclaimed.inc(1, {"model": model})

    def generated(self, model: str, first_s: float, rest_s: float, tokens: int) -> None:
        """Count one answer of a model that came to its end.

        Args:
            first_s: Seconds to its first text.
            rest_s: From there to its end.
            tokens: Of the answer.
        """
        self._first.observe(first_s, {"model": model})
        if tokens > 1:
            self._token.observe(rest_s / (tokens - 1), {"model": model})

    def judged(self, judge: str, *, good: bool) -> None:
        """Count one judgement. `judge` is `contract` or `caller`."""
        self._judged.inc(1, {"judge": judge, "verdict": "good" if good else "bad"})

    def failed(self, error: BaseException) -> None:
        """Count one question without an answer. What we did not foresee is an internal error."""
        told = error if isinstance(error, TriviumError) else InternalError("")
        # To be full is ours to mend; to be over a limit, or wrong, is the caller's.
        ours = told.status >= 500 or isinstance(told, Overloaded)
        self._failures.inc(1, {"code": told.code, "fault": "house" if ours else "caller"})

    def answered(
        self,
        decision: Decision,
        outcome: str,
        degraded: Sequence[str],
        calls: Sequence[ModelCall],
        cost: Cost,
        seconds: float,
    ) -> None:
        """Count one answer. `outcome` is `ok`, `refused`, `failed` or `disconnected`."""
        route = {"route": decision.route.value}
        self._answers.inc(1, {**route, "outcome": outcome, "degraded": str(bool(degraded)).lower()})
        for reason in dict.fromkeys(degraded):
            self._degraded.inc(1, {"reason": reason})
        for call in calls:
            for kind, count in (
                ("prompt", call.usage.prompt_tokens),
                ("completion", call.usage.completion_tokens),
            ):
                if count:
                    self._tokens.inc(count, {"model": call.model, "kind": kind})
        if cost.total:
            self._cost.inc(cost.total, route)
        if outcome == "ok":
            self._seconds.observe(seconds, route)
            # Of what did not come to its end, as in the ledger's report, nobody asks what else
            # it could have cost.
            if cost.baseline:
                self._baseline.inc(cost.baseline, route)
        self._decided(decision)

    def _decided(self, decision: Decision) -> None:
        labels = {"route": decision.route.value, "stage": decision.stage}
        self._decisions.inc(1, labels)
        if decision.stage in ("1", "2"):
            self._router.observe(decision.latency_ms)
            self._confidence.observe(decision.confidence)


class StandingMetrics:
    """What stands between answers: limits, and how good adapters were at their last canary.

    Ray forgets a gauge that is not set again within two of its reports, 20 seconds: who tells of
    these has to do so more often.
    """

    def __init__(self) -> None:
        of = ("limit", "per", "unit")
        self._most = Gauge("trivium_limit_most", "What may be spent in a stretch of time.", of)
        self._used = Gauge(
            "trivium_limit_used", "What is spent of it, or held for calls under way.", of
        )
        self._score = Gauge(
            "trivium_canary_score",
            "Share of an adapter's canary questions that were answered well, by score.",
            ("adapter", "version", "score"),
        )
        self._alerts = Gauge(
            "trivium_canary_alerts",
            "Scores of the last canary that lie below the release's own, beyond the tolerance.",
            ("adapter", "version"),
        )
        self._replayed = Gauge(
            "trivium_canary_timestamp_seconds",
            "When an adapter's canary was last replayed.",
            ("adapter", "version"),
        )

        self._lag = Gauge(
            "trivium_source_lag_seconds",
            "Since a source that is kept in step was so for the last time.",
            ("source",),
        )
        self._failed = Gauge(
            "trivium_source_failures",
            "How often in a row a source could not be brought into step.",
            ("source",),
        )

    def source(self, name: str, lag_s: float, failures: int) -> None:
        """Tell of one source that the settings name."""
        self._lag.set(lag_s, {"source": name})
        self._failed.set(failures, {"source": name})

    def limited(self, limit: str, per: str, unit: str, most: float, used: float) -> None:
        """Tell of one limit of the settings."""
        labels = {"limit": limit, "per": per, "unit": unit}
        self._most.set(most, labels)
        self._used.set(used, labels)

    def canary(self, record: Mapping[str, Any]) -> None:
        """Tell of an adapter's last canary (a record of `telemetry.drift.History`)."""
        labels = {"adapter": str(record["adapter"]), "version": str(record["version"])}
        for name, value in record["scores"].items():
            self._score.set(float(value), {**labels, "score": name})
        self._alerts.set(len(record["alerts"]), labels)
        self._replayed.set(float(record["time"]), labels)


class IndexMetrics:
    """How fresh the knowledge base is. Collections are named by callers, so they are no label."""

    def __init__(self) -> None:
        self._lag = Histogram(
            "trivium_index_lag_seconds",
            "From the time at which a document was true to when it could be found.",
            boundaries=[0.1, 0.5, 1, 2, 5, 15, 60, 300, 3600, 86400],
        )
        self._chunks = Counter(
            "trivium_index_chunks_total", "Chunks written, embedded or not.", tag_keys=("embedded",)
        )
        self._last: float | None = None
        lasting(
            "trivium_index_written_timestamp_seconds",
            "When documents were last written or removed; the index's age is time() less this.",
            (),
            lambda: [] if self._last is None else [({}, self._last)],
        )

    def ingested(self, times: Sequence[float], now: float, chunks: int, embedded: int) -> None:
        """Count one ingest.

        Args:
            times: Unix seconds at which its documents were true, of those that say.
        """
        for moment in times:
            self._lag.observe(max(0.0, now - moment))
        self.changed(now)
        for count, label in ((embedded, "true"), (chunks - embedded, "false")):
            if count:
                self._chunks.inc(count, {"embedded": label})

    def changed(self, at: float) -> None:
        """Documents were written or removed then (Unix seconds), by whomever."""
        self._last = max(at, self._last or at)


def circuits(read: Callable[[], Iterable[tuple[str, str, bool]]]) -> None:
    """Tell of the outside models' circuits: provider, model, and whether it is left alone."""
    lasting(
        "trivium_circuit_open",
        "Whether a provider has failed so often that it is left alone for a while: 1 or 0.",
        ("provider", "model"),
        lambda: [
            ({"provider": provider, "model": model}, float(resting))
            for provider, model, resting in read()
        ],
    )


def lasting(
    name: str, text: str, tag_keys: tuple[str, ...], read: Callable[[], Iterable[Reading]]
) -> None:
    """A gauge of what changes seldom, told again and again for as long as the process lives.

    In a thread of its own: Ray forgets a gauge that is not set again within two of its reports,
    and an event loop may be busy for so long.
    """
    gauge = Gauge(name, text, tag_keys)

    def tell() -> None:
        while True:
            for labels, value in read():
                gauge.set(value, dict(labels))
            time.sleep(_REPEAT_S)

    threading.Thread(target=tell, name=name, daemon=True).start()
