"""Traffic, router, scaling and spend. Ray's dashboard embeds the panels that have a number."""

from __future__ import annotations

from dataclasses import replace

from tools.dashboards.cost import PER_ANSWER, SPEND
from tools.dashboards.grafana import Dashboard, Panel
from tools.dashboards.promql import quantiles, rate, share
from tools.dashboards.quality import DEGRADED, FAILURES

_DECIDED = 'increase(ray_trivium_decisions_total{stage=~"1|2"}[1d])'

TRAFFIC = (
    Panel(
        "Answers, by road",
        "reqps",
        "Answers a second, whole, broken off or left.",
        {"{{route}}": rate("ray_trivium_answers_total", "route")},
        number=7,
    ),
    replace(FAILURES, number=8),
    Panel(
        "Time to the whole answer, p90",
        "s",
        "From the request to the end of the answer.",
        quantiles("ray_trivium_answer_seconds", [0.9], "route", "{{route}}"),
        number=15,
    ),
    Panel(
        "HTTP answers, by status",
        "reqps",
        "What the proxies sent; it holds what was refused before a road was asked.",
        {"{{status_code}}": rate("ray_serve_num_http_requests_total", "status_code")},
    ),
    Panel(
        "Share of answers that were degraded",
        "percentunit",
        "Another road stood in, or a part was missing.",
        {
            "degraded": share(
                'ray_trivium_answers_total{degraded="true"}', "ray_trivium_answers_total"
            )
        },
    ),
    DEGRADED,
)

ROUTER = (
    Panel(
        "Router latency",
        "ms",
        "In the router's replica, the wait for its batch included.",
        quantiles("ray_trivium_router_latency_ms", [0.5, 0.95, 0.99]),
        number=21,
    ),
    Panel(
        "Router confidence",
        "percentunit",
        "Probability that the road chosen is the question's own. A fall means questions of a kind "
        "that the router has not learned.",
        quantiles("ray_trivium_router_confidence", [0.1, 0.5, 0.9]),
    ),
    Panel(
        "Decisions, by stage",
        "reqps",
        "1: the heads. 2: a model was asked in doubt. pinned: the caller named the road. "
        "fallback: nobody could decide.",
        {"{{stage}}": rate("ray_trivium_decisions_total", "stage")},
    ),
    Panel(
        "Share of each road in a day's decisions",
        "percentunit",
        "Where one road takes nearly everything the router is not needed.",
        {"{{route}}": f"sum by (route) ({_DECIDED}) / scalar(sum({_DECIDED}))"},
    ),
)

SCALING = (
    Panel(
        "Requests under way",
        "short",
        "HTTP requests that the proxies hold, streams included.",
        {"requests": "sum(ray_serve_num_ongoing_http_requests)"},
        number=20,
    ),
    Panel(
        "Queue, by deployment",
        "short",
        "Calls that wait for a replica.",
        {"{{deployment}}": "sum by (deployment) (ray_serve_deployment_queued_queries)"},
        number=22,
    ),
    Panel(
        "Replicas, healthy and wanted",
        "short",
        "Wanted: what autoscaling aims at.",
        {
            "{{deployment}}": "sum by (deployment) (ray_serve_deployment_replica_healthy)",
            "{{deployment}} wanted": (
                "max by (deployment) (ray_serve_autoscaling_target_replicas)"
            ),
        },
        number=23,
    ),
    replace(SPEND, number=24),
    replace(PER_ANSWER, number=25),
    Panel(
        "Calls in replicas, by deployment",
        "short",
        "What replicas work on.",
        {"{{deployment}}": "sum by (deployment) (ray_serve_replica_processing_queries)"},
    ),
)

DASHBOARD = Dashboard(
    "trivium-serving",
    "Trivium / Serving",
    {"Traffic": TRAFFIC, "Router": ROUTER, "Scaling and cost": SCALING},
)
