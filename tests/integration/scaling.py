"""`python -m tests.integration.scaling DASHBOARD COUNT`: so many gateways, and no other.

By Serve's REST API, as KubeRay does it. A process of its own, because Ray reads its variables when
it is imported.
"""

from __future__ import annotations

import os
import sys
import time

from serve_app.cli.local import RAY_ENVIRONMENT

_PATIENCE_S = 120.0


def main(dashboard: str, count: int) -> None:
    os.environ.update(RAY_ENVIRONMENT)
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    serve = ServeSubmissionClient(f"http://{dashboard}")
    details = serve.get_serve_details()
    running = [each["deployed_app_config"] for each in details["applications"].values()]
    for application in running:
        for deployment in application["deployments"]:
            if deployment["name"] == "Gateway":
                replicas = {"min_replicas": count, "max_replicas": count}
                deployment["autoscaling_config"] |= replicas
    serve.deploy_applications(
        {
            "proxy_location": details["proxy_location"],
            "http_options": details["http_options"],
            "applications": running,
        }
    )
    deadline = time.monotonic() + _PATIENCE_S
    states: list[str] = []
    while time.monotonic() < deadline:
        # While the application is built anew it has none.
        deployments = serve.get_serve_details()["applications"]["trivium"]["deployments"]
        if gateway := deployments.get("Gateway"):
            states = [each["state"] for each in gateway["replicas"]]
            if gateway["status"] == "HEALTHY" and states == ["RUNNING"] * count:
                return
        time.sleep(0.2)
    raise SystemExit(f"no {count} gateways after {_PATIENCE_S:.0f} s: {states}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
