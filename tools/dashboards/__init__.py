"""The chart's Grafana dashboards: made here, written as JSON, drawn to be looked at."""
