"""What Ray Serve runs: applications, their deployments, replicas and queues."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from serve_app.cluster import stack
from serve_app.cluster.kube import Kube, Object, Ref
from serve_app.errors import PermissionDenied, TriviumError
from serve_app.plain_data import yaml_text

_DASHBOARD, _METRICS = 8265, 8080
_APPLICATIONS = "/api/serve/applications/"
_QUEUE = "ray_serve_autoscaling_total_requests"
_UP = ("HEALTHY", "UPSCALING", "DOWNSCALING")  # the autoscaler is always at it
_ALIVE = {"filter_keys": "state", "filter_predicates": "=", "filter_values": "ALIVE"}
_MOST = 10_000  # actors that Ray's API lists


@dataclass(frozen=True)
class Deployment:
    """One Serve deployment.

    Attributes:
        status: Serve's own word; `replaced` for one that answers while what shall replace it fails.
        replicas: That run, of those wanted; None where nobody can be asked.
        requests: Running and queued together, as the autoscaler sees them.
    """

    name: str
    status: str
    replicas: tuple[int, int | None] | None = None
    requests: float | None = None


@dataclass(frozen=True)
class Application:
    """One Serve application; `status` is Serve's own word (`RUNNING`, `DEPLOY_FAILED`, …)."""

    name: str
    status: str
    message: str = ""
    deployments: tuple[Deployment, ...] = field(default=())

    @property
    def up(self) -> bool:
        """Whether all of it serves what was asked for."""
        return self.status == "RUNNING" and all(d.status in _UP for d in self.deployments)

    @property
    def failed(self) -> bool:
        """Whether it will not come up by waiting, or has gone down."""
        return self.status in ("DEPLOY_FAILED", "UNHEALTHY")


def told(service: Object) -> list[Application]:
    """Applications by the RayService's own status; of the cluster that serves, if one does."""
    status = service.get("status") or {}
    parts = [status.get(part) or {} for part in ("activeServiceStatus", "pendingServiceStatus")]
    apps: Mapping[str, Any] = next(
        (p["applicationStatuses"] for p in parts if p.get("applicationStatuses")), {}
    )
    return [
        Application(
            name,
            app.get("status") or "NOT_STARTED",
            app.get("message") or "",
            tuple(
                Deployment(each, d.get("status") or "")
                for each, d in (app.get("serveDeploymentStatuses") or {}).items()
            ),
        )
        for name, app in apps.items()
    ]


def read(kube: Kube, service: Object, notes: list[str]) -> list[Application]:
    """From the Ray dashboard; where it cannot be asked, what the RayService says of them."""
    clusters = stack.clusters(service)
    if not clusters:
        return []
    head = f"{clusters[0]}-head-svc"
    token = _token(kube, clusters[0])
    try:
        page = kube.proxy(head, _DASHBOARD, _APPLICATIONS, headers=token)
        apps = json.loads(page)["applications"]
        unknown = any(not app["deployments"] for app in apps.values())
        running = _replicas(kube, head, token) if unknown else Counter()
    except (TriviumError, ValueError) as error:
        notes.append(f"no replicas: the Ray dashboard does not answer ({error})")
        return told(service)
    queues = _queues(kube, head, notes)
    return [
        Application(
            name,
            app["status"],
            app.get("message") or "",
            _deployments(name, app, running, queues),
        )
        for name, app in apps.items()
    ]


def lagging(kube: Kube, service: Object) -> list[str]:
    """Applications of which the RayService's status is of before: what it says is not so now.

    Serve has not been told of its latest config yet, or has another status by now. Where the
    dashboard cannot be asked the RayService is believed.
    """
    try:
        [cluster, *_] = stack.clusters(service)
        token = _token(kube, cluster)
        page = kube.proxy(f"{cluster}-head-svc", _DASHBOARD, _APPLICATIONS, headers=token)
        has = json.loads(page)["applications"]
    except (TriviumError, ValueError, KeyError):
        return []
    said = {each.name: each.status for each in told(service)}
    wanted = yaml_text(service["spec"]["serveConfigV2"], "serveConfigV2")["applications"]
    return [
        each["name"]
        for each in wanted
        if (now := has.get(each["name"])) is None
        or now["status"] != said.get(each["name"])
        or _told(now["deployed_app_config"] or {}) != _told(each)
    ]


def _told(app: Mapping[str, Any]) -> tuple[Any, Any]:
    """What we tell an application and its deployments; Serve adds nothing to that."""
    deployments = app.get("deployments") or ()
    return app.get("args") or {}, {d["name"]: d.get("user_config") for d in deployments}


def _deployments(
    app: str, given: Mapping[str, Any], running: Counter[tuple[str, str]], queues: _Queues
) -> tuple[Deployment, ...]:
    """Those that Serve names; for an application that it could not build, those that still run."""
    found = {name: _deployment(name, each) for name, each in given["deployments"].items()}
    for (owner, name), count in running.items():
        if owner == app and name not in found:
            found[name] = Deployment(name, "replaced", (count, None))
    return tuple(replace(d, requests=queues.get((app, d.name))) for d in found.values())


def _deployment(name: str, given: Mapping[str, Any]) -> Deployment:
    running = sum(each["state"] == "RUNNING" for each in given["replicas"])
    return Deployment(name, given["status"], (running, given["target_num_replicas"]))


def _replicas(kube: Kube, head: str, token: Mapping[str, str]) -> Counter[tuple[str, str]]:
    """Replicas that live, by application and deployment: each is an actor that is named so."""
    query = {**_ALIVE, "limit": str(_MOST)}
    page = json.loads(kube.proxy(head, _DASHBOARD, "/api/v0/actors", query, token))
    actors: Sequence[Mapping[str, Any]] = page["data"]["result"]["result"]
    names = (each["class_name"].split(":") for each in actors)
    return Counter((n[1], n[2]) for n in names if n[0] == "ServeReplica" and len(n) == 3)


def _token(kube: Kube, cluster: str) -> Mapping[str, str]:
    """Header for a dashboard that wants a token; empty where there is none, or it is not ours.

    The API server keeps `Authorization` to itself, which is why Ray takes another header too.
    """
    try:
        secret = kube.get(Ref("v1", "Secret", kube.namespace, cluster))
    except PermissionDenied:
        return {}
    token = ((secret or {}).get("data") or {}).get("auth_token")
    if not token:
        return {}
    return {"X-Ray-Authorization": f"Bearer {base64.b64decode(token).decode()}"}


_Queues = dict[tuple[str, str], float]


def _queues(kube: Kube, head: str, notes: list[str]) -> _Queues:
    """Requests by application and deployment, of the controller's metrics on the head node."""
    try:
        families = text_string_to_metric_families(kube.proxy(head, _METRICS, "/metrics").decode())
        return {
            (sample.labels["application"], sample.labels["deployment"]): sample.value
            for family in families
            for sample in family.samples
            if sample.name == _QUEUE
        }
    except (TriviumError, ValueError) as error:
        notes.append(f"no queues: the head pod's metrics do not answer ({error})")
        return {}
