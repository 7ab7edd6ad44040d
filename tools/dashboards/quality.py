"""What goes wrong and what gets worse: failures, degraded answers, the index, adapters."""

from __future__ import annotations

from tools.dashboards.grafana import Dashboard, Panel
from tools.dashboards.promql import hourly, most, quantiles, rate

_ENDED = 'ray_trivium_answers_total{outcome="ok"}'
_FAILED = "(" + rate('ray_trivium_failures_total{fault="house"}') + " or vector(0))"

FAILURES = Panel(
    "Questions without an answer, by error",
    "reqps",
    "By error code, and whether the house or the caller was at fault.",
    {"{{code}} ({{fault}})": rate("ray_trivium_failures_total", "code, fault")},
)
DEGRADED = Panel(
    "Degraded answers, by reason",
    "reqps",
    "A part and its error code, as callers read it in x-trivium-degraded.",
    {"{{reason}}": rate("ray_trivium_degraded_total", "reason")},
)

ANSWERS = (
    Panel(
        "Share of questions that the house failed",
        "percentunit",
        "Of those answered, or failed by its own fault: what the error budget is of.",
        {"failed": f"{_FAILED} / ({_FAILED} + ({rate(_ENDED)} or vector(0)))"},
    ),
    FAILURES,
    DEGRADED,
    Panel(
        "Providers left alone",
        "short",
        "1 while an outside model has failed so often that it is not asked.",
        {"{{provider}} {{model}}": most("ray_trivium_circuit_open", "provider, model")},
    ),
)

KNOWLEDGE = (
    Panel(
        "Age of the index",
        "s",
        "Since documents were last written.",
        {"age": "time() - max(ray_trivium_index_written_timestamp_seconds)"},
    ),
    Panel(
        "From true to findable",
        "s",
        "Of documents that say when they were true.",
        quantiles("ray_trivium_index_lag_seconds", [0.5, 0.95]),
    ),
    Panel(
        "Chunks written per hour",
        "short",
        "Embedded, or known already.",
        {"embedded {{embedded}}": hourly("ray_trivium_index_chunks_total", "embedded")},
    ),
)

ADAPTERS = (
    Panel(
        "Canary scores",
        "percentunit",
        "Of each adapter that serves, at its last replay: form (adherence), faithfulness, fields.",
        {
            "{{adapter}} {{version}} {{score}}": most(
                "ray_trivium_canary_score", "adapter, version, score"
            )
        },
    ),
    Panel(
        "Canary alerts",
        "short",
        "Scores below the release's own, beyond the tolerance.",
        {"{{adapter}} {{version}}": most("ray_trivium_canary_alerts", "adapter, version")},
    ),
    Panel(
        "Since the last canary",
        "s",
        "Scores that nobody has replayed for long say nothing.",
        {"{{adapter}}": f"time() - {most('ray_trivium_canary_timestamp_seconds', 'adapter')}"},
    ),
    Panel(
        "Answers under a contract",
        "reqps",
        "How they kept it: at once, after a repair, not, or cut by the bound on tokens.",
        {"{{adapter}} {{outcome}}": rate("ray_trivium_format_total", "adapter, outcome")},
    ),
)

DASHBOARD = Dashboard(
    "trivium-quality",
    "Trivium / Quality",
    {"Answers": ANSWERS, "Knowledge": KNOWLEDGE, "Adapters": ADAPTERS},
)
