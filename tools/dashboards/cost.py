"""What answers cost, beside what RAG-only would have, and what the budgets leave."""

from __future__ import annotations

from tools.dashboards.grafana import Dashboard, Panel
from tools.dashboards.promql import (
    JUDGED,
    USD_PER_BASELINE,
    USD_PER_SUCCESS,
    hourly,
    most,
)

_ENDED = 'ray_trivium_answers_total{outcome="ok"}'
_GOOD = f'{JUDGED}{{verdict="good"}}'

SPEND = Panel(
    "Spend per hour, by road",
    "currencyUSD",
    "Dollars of the answers of the last hour: outside models by their tokens, our own by the "
    "machine time that their tokens take.",
    {"{{route}}": hourly("ray_trivium_cost_usd_total", "route")},
)
PER_ANSWER = Panel(
    "Cost of a successful answer",
    "currencyUSD",
    "Over the last hour. The share of judged answers that were good speaks for all that ended; no "
    "line where nobody judged. RAG-only's are all taken for good.",
    {"Trivium": USD_PER_SUCCESS, "RAG-only, estimated": USD_PER_BASELINE},
)

ANSWERS = (
    SPEND,
    PER_ANSWER,
    Panel(
        "Less than RAG-only by",
        "percentunit",
        "Of the cost of a successful answer, over the last hour.",
        {"less": f"1 - ({USD_PER_SUCCESS}) / ({USD_PER_BASELINE})"},
        "stat",
    ),
    Panel(
        "Answers judged per hour",
        "short",
        "Good and bad, beside those that came to their end.",
        {"{{verdict}}": hourly(JUDGED, "verdict"), "ended": hourly(_ENDED)},
    ),
    Panel(
        "Judged good",
        "percentunit",
        "The share of answers judged, by an adapter's contract or by who asked.",
        {
            "{{judge}}": (
                f"({hourly(_GOOD, 'judge')} or 0 * {hourly(JUDGED, 'judge')}) / "
                f"({hourly(JUDGED, 'judge')} > 0)"
            )
        },
    ),
    Panel(
        "Tokens per hour, by model",
        "short",
        "Prompt and completion together.",
        {"{{model}}": hourly("ray_trivium_tokens_total", "model")},
    ),
)

BUDGETS = (
    Panel(
        "Used of each limit",
        "percentunit",
        "Of limits that the settings name; what is held for calls under way counts.",
        {
            "{{limit}} {{unit}} per {{per}}": (
                f"{most('ray_trivium_limit_used', 'limit, unit, per')} / "
                f"({most('ray_trivium_limit_most', 'limit, unit, per')} > 0)"
            )
        },
        "bargauge",
    ),
    Panel(
        "Dollars left",
        "currencyUSD",
        "Until the end of the minute, day or month (UTC).",
        {
            "{{limit}} per {{per}}": (
                most('ray_trivium_limit_most{unit="usd"}', "limit, per")
                + " - "
                + most('ray_trivium_limit_used{unit="usd"}', "limit, per")
            )
        },
    ),
)

DASHBOARD = Dashboard(
    "trivium-cost", "Trivium / Cost", {"What answers cost": ANSWERS, "Budgets": BUDGETS}
)
