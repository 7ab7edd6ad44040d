"""Queries that panels share.

None reads the sum of a histogram: Ray estimates it, and only the buckets are exact.
"""

from __future__ import annotations

from collections.abc import Sequence


def rate(metric: str, by: str = "") -> str:
    """Events in a second."""
    return f"sum{_by(by)} (rate({metric}[$__rate_interval]))"


def hourly(metric: str, by: str = "") -> str:
    """What came together in the last hour."""
    return f"sum{_by(by)} (increase({metric}[1h]))"


def most(metric: str, by: str) -> str:
    """Of a gauge that several replicas tell."""
    return f"max by ({by}) ({metric})"


def share(part: str, whole: str) -> str:
    """Of the events in a second."""
    return f"{rate(part)} / {rate(whole)}"


def quantiles(
    metric: str, shares: Sequence[float], by: str = "", legend: str = ""
) -> dict[str, str]:
    """Of a histogram, by their legends."""
    buckets = rate(f"{metric}_bucket", ", ".join(filter(None, (by, "le"))))
    return {
        f"{legend} p{each * 100:g}".strip(): f"histogram_quantile({each}, {buckets})"
        for each in shares
    }


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


JUDGED = "ray_trivium_judged_total"
_ENDED = hourly('ray_trivium_answers_total{outcome="ok"}')
_GOOD = hourly(f'{JUDGED}{{verdict="good"}}')
_ALL = hourly(JUDGED)

# Nothing is known of an answer that nobody judged: the judged ones' share speaks for those that
# ended, and where nobody judged there is no figure.
SUCCESS = f"(({_GOOD} or 0 * {_ALL}) / ({_ALL} > 0))"
USD_PER_SUCCESS = f"{hourly('ray_trivium_cost_usd_total')} / ({_ENDED} > 0) / ({SUCCESS} > 0)"
USD_PER_BASELINE = f"{hourly('ray_trivium_baseline_usd_total')} / ({_ENDED} > 0)"
