"""What a kubelet and Ray on the head pod say of pods that run nowhere: on this machine's address.

KubeRay's operator and `trivium` reach it through the API server, which refuses loopback addresses.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn
from ray.serve.schema import ServeApplicationSchema, ServeInstanceDetails
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from serve_app.cluster.kube import Kube, Object
from serve_app.errors import TriviumError

_PORTS = (8265, 8000, 8080)  # Ray's dashboard, Serve's proxy, metrics


def address() -> str:
    """This machine's own; empty where it has only the loopback."""
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with datagrams as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        return str(probe.getsockname()[0])
    return ""


class Head:
    """Ray's dashboard, Serve and metrics, of every head pod.

    Attributes:
        refuses: A text in an application's config with which it cannot be built, and why not; what
            ran goes on running.
        waiting_for: Roads that do not answer yet.
    """

    def __init__(self) -> None:
        self.config: Object = {"applications": []}
        self.refuses: dict[str, str] = {}
        self.waiting_for: list[str] = []
        self.running: dict[str, list[str]] = {}
        self.tokens: set[str | None] = set()

    @property
    def app(self) -> Starlette:
        applications = "/api/serve/applications/"
        return Starlette(
            routes=[
                Route(applications, self._deploy, methods=["PUT"]),
                Route(applications, self._applications),
                Route("/api/v0/actors", self._actors),
                Route("/readyz", self._readyz),
                Route("/-/healthz", lambda _: PlainTextResponse("success")),
                Route("/metrics", self._metrics),
            ]
        )

    async def _deploy(self, request: Request) -> Response:
        self.config = await request.json()
        for each in self.config["applications"]:
            if not self._refusal(each):
                named = [d["name"] for d in each.get("deployments") or ()]
                self.running[each["name"]] = named or ["Gateway"]
        return Response()

    def _applications(self, request: Request) -> Response:
        self.tokens.add(request.headers.get("x-ray-authorization"))
        apps = {each["name"]: self._application(each) for each in self.config["applications"]}
        details = {
            "target_capacity": None,
            "controller_info": {},
            "proxies": {},
            "http_options": {"host": "0.0.0.0", "port": 8000},
            "grpc_options": {},
            "applications": apps,
        }
        # As Ray spells it: what it would not take back, it does not send.
        ServeInstanceDetails.model_validate(details)
        return JSONResponse(details)

    def _application(self, given: Object) -> Object:
        failed = self._refusal(given)
        names = [] if failed else self.running[given["name"]]
        deployed = ServeApplicationSchema.model_validate({"import_path": "app:app", **given})
        return {
            "name": given["name"],
            "route_prefix": given.get("route_prefix", "/"),
            "docs_path": None,
            "status": "DEPLOY_FAILED" if failed else "RUNNING",
            "message": failed,
            "last_deployed_time_s": time.time(),
            "source": "declarative",
            "external_scaler_enabled": False,
            "deployed_app_config": deployed.model_dump(mode="json", exclude_unset=True),
            "deployments": {name: _deployment(name) for name in names},
        }

    def _refusal(self, given: Object) -> str:
        text = json.dumps(given)
        return next((why for part, why in self.refuses.items() if part in text), "")

    def _actors(self, request: Request) -> Response:
        assert request.query_params["filter_values"] == "ALIVE"
        classes = [f"ServeReplica:{app}:{d}" for app, names in self.running.items() for d in names]
        found = [{"class_name": name, "state": "ALIVE"} for name in ("ProxyActor", *classes)]
        result = {"total": len(found), "num_after_truncation": len(found), "result": found}
        return JSONResponse({"result": True, "msg": "", "data": {"result": result}})

    def _readyz(self, request: Request) -> Response:
        body = {"status": "warming up", "waiting_for": self.waiting_for}
        return JSONResponse(body, 503 if self.waiting_for else 200)

    def _metrics(self, request: Request) -> Response:
        name = "ray_serve_autoscaling_total_requests"
        lines = [f"# TYPE {name} gauge"]
        for app, names in self.running.items():
            lines += [f'{name}{{deployment="{d}",application="{app}"}} 7.0' for d in names]
        return PlainTextResponse("\n".join(lines) + "\n")


def _deployment(name: str) -> Object:
    replica = {
        "node_id": None,
        "node_ip": None,
        "node_instance_id": None,
        "actor_id": None,
        "actor_name": None,
        "worker_id": None,
        "log_file_path": None,
        "replica_id": "a",
        "state": "RUNNING",
        "pid": None,
        "start_time_s": 0.0,
    }
    return {
        "name": name,
        "status": "HEALTHY",
        "status_trigger": "CONFIG_UPDATE_COMPLETED",
        "message": "",
        "deployment_config": {"name": name},
        "target_num_replicas": 2,
        "required_resources": {},
        "replicas": [replica],
    }


@contextlib.contextmanager
def serving(head: Head, host: str) -> Iterator[None]:
    """Serve a head pod's pages on its ports."""
    servers = [
        uvicorn.Server(
            uvicorn.Config(head.app, host=host, port=port, log_level="error", lifespan="off")
        )
        for port in _PORTS
    ]
    threads = [threading.Thread(target=each.run, daemon=True) for each in servers]
    for thread in threads:
        thread.start()
    while not all(each.started for each in servers):
        assert all(each.is_alive() for each in threads), f"ports of {host} are taken: {_PORTS}"
        time.sleep(0.01)
    yield
    for server, thread in zip(servers, threads, strict=True):
        server.should_exit = True
        thread.join(10)


class Kubelet:
    """Says of pods that the scheduler has placed that they run; of some, why they do not.

    Attributes:
        broken: The state of a container, by a part of its image's name.
    """

    def __init__(self, kube: Kube, host: str) -> None:
        self._kube, self._host = kube, host
        self._end = threading.Event()
        self.broken: dict[str, Object] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Look after pods meanwhile."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        yield
        self._end.set()
        thread.join(30)

    def _run(self) -> None:
        while not self._end.wait(0.1):
            for pod in self._kube.find("v1", "Pod", everywhere=True):
                if pod["spec"].get("nodeName"):
                    with contextlib.suppress(TriviumError):  # it was deleted meanwhile
                        self._look_after(pod)

    def _look_after(self, pod: Object) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        if meta.get("deletionTimestamp"):
            self._kube.request("DELETE", path, query={"gracePeriodSeconds": "0"})
            return
        status = self._status(pod)
        if status["conditions"] != _known(pod) or "containerStatuses" not in pod["status"]:
            kind = "application/merge-patch+json"
            self._kube.json("PATCH", f"{path}/status", body={"status": status}, content_type=kind)

    def _status(self, pod: Object) -> Object:
        containers = pod["spec"]["containers"]
        states = [self._state(each["image"]) for each in containers]
        up = all("running" in each for each in states)
        named = zip(containers, states, strict=True)
        statuses = [_container(each, state) for each, state in named]
        return {
            "phase": "Running" if up else "Pending",
            "podIP": self._host,
            "podIPs": [{"ip": self._host}],
            "conditions": [_condition(name, up) for name in ("Ready", "ContainersReady")],
            "containerStatuses": statuses,
        }

    def _state(self, image: str) -> Object:
        found = (state for part, state in self.broken.items() if part in image)
        return next(found, {"running": {}})


def _known(pod: Object) -> Sequence[Any]:
    kept = ("type", "status")
    found = [{k: e[k] for k in kept} for e in pod["status"].get("conditions") or ()]
    return [each for each in found if each["type"] in ("Ready", "ContainersReady")]


def _condition(name: str, holds: bool) -> Object:
    return {"type": name, "status": str(holds)}


def _container(given: Object, state: Object) -> Object:
    last = {"terminated": state["last"]} if "last" in state else {}
    now = {name: each for name, each in state.items() if name != "last"}
    return {
        "name": given["name"],
        "image": given["image"],
        "imageID": "",
        "ready": "running" in now,
        "started": "running" in now,
        "restartCount": 5 if last else 0,
        "state": now,
        "lastState": last,
    }


def patch_status(kube: Kube, path: str, status: Object) -> None:
    """Write the status of an object that nobody looks after."""
    kind = "application/merge-patch+json"
    kube.json(
        "PATCH",
        f"{path}/status",
        body=json.loads(json.dumps({"status": status})),
        content_type=kind,
    )
