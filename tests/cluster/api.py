"""A Kubernetes API on a real socket: objects in memory, server-side apply with owners, dry runs.

It keeps what the API server promises (discovery, label selectors, generations, conflicts, refusals
in `Status` objects) and plays the KubeRay operator by a function that a test chooses.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

Object = dict[str, Any]
Key = tuple[str, str, str, str]  # api version, plural, namespace, name
Path = tuple[str, ...]  # of a field

TOKEN = "test-token"

# api version: plural: (kind, namespaced)
CORE: dict[str, dict[str, tuple[str, bool]]] = {
    "v1": {
        "namespaces": ("Namespace", False),
        "nodes": ("Node", False),
        "pods": ("Pod", True),
        "events": ("Event", True),
        "secrets": ("Secret", True),
        "configmaps": ("ConfigMap", True),
        "services": ("Service", True),
        "serviceaccounts": ("ServiceAccount", True),
        "persistentvolumeclaims": ("PersistentVolumeClaim", True),
        "resourcequotas": ("ResourceQuota", True),
    },
    "apps/v1": {"deployments": ("Deployment", True), "statefulsets": ("StatefulSet", True)},
    "networking.k8s.io/v1": {"networkpolicies": ("NetworkPolicy", True)},
    "rbac.authorization.k8s.io/v1": {
        "roles": ("Role", True),
        "rolebindings": ("RoleBinding", True),
    },
    "policy/v1": {"poddisruptionbudgets": ("PodDisruptionBudget", True)},
    "storage.k8s.io/v1": {"storageclasses": ("StorageClass", False)},
    "ray.io/v1": {"rayservices": ("RayService", True), "rayclusters": ("RayCluster", True)},
}


class Api:
    """The server's state, and what tests do to it."""

    def __init__(self) -> None:
        self.kinds = copy.deepcopy(CORE)
        self.objects: dict[Key, Object] = {}
        self.owners: dict[Key, dict[str, set[Path]]] = {}  # by manager
        self.denied: set[tuple[str, str]] = set()  # verb, resource
        self.logs: dict[tuple[str, str, bool], str] = {}
        self.pages: dict[tuple[str, str], tuple[int, str]] = {}  # service:port, path
        self.applied: list[str] = []  # what was really written, in order
        self.asked: list[dict[str, str]] = []  # headers of pages
        # By name: after so many more looks at an object, something happens.
        self.later: dict[str, tuple[int, Callable[[], None]]] = {}
        self.outage = 0  # calls that are turned away
        self.operator: Callable[[Api, Object], None] = lambda api, service: None

    def put(self, thing: Object, manager: str = "somebody") -> None:
        """Have an object there, as somebody else put it."""
        plural = self.plural(thing["apiVersion"], thing["kind"])
        meta = thing["metadata"]
        key = (thing["apiVersion"], plural, meta.get("namespace", ""), meta["name"])
        self.objects[key] = {**thing, "metadata": {"generation": 1, **meta}}
        self.owners[key] = {manager: set(_leaves(thing))}

    def get(self, kind: str, name: str) -> Object | None:
        """An object by kind and name, wherever it lives."""
        for thing in self.objects.values():
            if thing["kind"] == kind and thing["metadata"]["name"] == name:
                return thing
        return None

    def plural(self, api_version: str, kind: str) -> str:
        return next(p for p, (k, _) in self.kinds[api_version].items() if k == kind)

    def write(self, key: Key, thing: Object) -> Object:
        """Store an object as the API server does, and let the operator see it."""
        before = self.objects.get(key)
        meta = thing["metadata"]
        changed = before is None or before.get("spec") != thing.get("spec")
        meta["generation"] = (before or {}).get("metadata", {}).get("generation", 0) + changed
        meta.setdefault("uid", "-".join(key))
        self.objects[key] = thing
        self.applied.append(f"{thing['kind']}/{meta['name']}")
        if thing["kind"] == "RayService" and changed:
            self.operator(self, thing)
        return thing

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/version", _version),
                Route("/apis", self._groups),
                Route(
                    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                    self._review,
                    methods=["POST"],
                ),
                Route("/api/{version}{rest:path}", self._resources, methods=_METHODS),
                Route("/apis/{group}/{version}{rest:path}", self._resources, methods=_METHODS),
            ]
        )

    async def _groups(self, request: Request) -> Response:
        groups = [
            {"name": v.partition("/")[0], "versions": [{"groupVersion": v}]}
            for v in self.kinds
            if "/" in v
        ]
        return JSONResponse({"kind": "APIGroupList", "groups": groups})

    async def _review(self, request: Request) -> Response:
        asked = (await request.json())["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked["subresource"])))
        allowed = (asked["verb"], resource) not in self.denied
        return JSONResponse({"status": {"allowed": allowed}}, 201)

    async def _resources(self, request: Request) -> Response:
        if self.outage:
            self.outage -= 1
            return _status(503, "apiserver not ready")
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return _status(401, "Unauthorized")
        parameters = request.path_params
        version = "/".join(filter(None, (parameters.get("group"), parameters["version"])))
        if version not in self.kinds:
            return _status(404, "the server could not find the requested resource")
        parts = [part for part in parameters["rest"].split("/") if part]
        if not parts:
            return JSONResponse({"resources": self._discovery(version)})
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        plural, name = parts[0], parts[1] if len(parts) > 1 else ""
        if plural == "services" and "proxy" in parts:
            return self._page(request, name, "/" + "/".join(parts[3:]))
        if plural == "pods" and parts[2:] == ["log"]:
            return self._log(request, name)
        return await self._object(request, (version, plural, namespace, name))

    def _discovery(self, version: str) -> list[Object]:
        return [
            {"name": plural, "kind": kind, "namespaced": namespaced}
            for plural, (kind, namespaced) in self.kinds[version].items()
        ]

    def _page(self, request: Request, service: str, path: str) -> Response:
        self.asked.append(dict(request.headers))
        found = self.pages.get((service, path.rstrip("/")))
        if found is None:
            return _status(503, f"no endpoints available for service {service!r}")
        return PlainTextResponse(found[1], found[0])

    def _log(self, request: Request, pod: str) -> Response:
        query = request.query_params
        found = self.logs.get((pod, query["container"], query["previous"] == "true"))
        return PlainTextResponse(found) if found else _status(400, "previous container not found")

    async def _object(self, request: Request, key: Key) -> Response:
        verb = {"GET": "get" if key[3] else "list", "POST": "create", "DELETE": "delete"}.get(
            request.method, "patch"
        )
        if (verb, key[1]) in self.denied:
            where = f'in the namespace "{key[2]}"' if key[2] else "at the cluster scope"
            return _status(403, f'{key[1]} is forbidden: User "dev" cannot {verb} {key[1]} {where}')
        if verb == "list":
            return JSONResponse({"items": self._selected(request, key), "metadata": {}})
        if verb == "create":
            body = await request.json()
            key = (*key[:3], body["metadata"]["name"])
            if key in self.objects:
                return _status(409, f'{key[1]} "{key[3]}" already exists')
            return JSONResponse(self.write(key, body), 201)
        if verb == "patch":
            return await self._patch(request, key)
        if key not in self.objects:
            return _status(404, f'{key[1]} "{key[3]}" not found')
        if verb == "delete":
            self.applied.append(f"-{self.objects[key]['kind']}/{key[3]}")
            return JSONResponse(self.objects.pop(key))
        self._count(key[3])
        return JSONResponse(self.objects[key])

    def _count(self, name: str) -> None:
        if name in self.later:
            left, happens = self.later[name]
            self.later[name] = (left - 1, happens)
            if left == 0:
                del self.later[name]
                happens()

    def _selected(self, request: Request, key: Key) -> list[Object]:
        asked = [e for e in request.query_params.get("labelSelector", "").split(",") if e]
        wanted = dict(each.split("=", 1) for each in asked if "=" in each)
        unwanted = {each[1:] for each in asked if each.startswith("!")}
        return [
            {k: v for k, v in thing.items() if k not in ("apiVersion", "kind")}
            for (version, plural, namespace, _), thing in sorted(self.objects.items())
            if (version, plural) == key[:2] and (not key[2] or namespace == key[2])
            if wanted.items() <= (labels := thing["metadata"].get("labels") or {}).items()
            if not unwanted & set(labels)
        ]

    async def _patch(self, request: Request, key: Key) -> Response:
        body = await request.json()
        if "apply" not in request.headers["content-type"]:
            return JSONResponse(self.write(key, _merged(self.objects[key], body)))
        query = request.query_params
        manager, live = query["fieldManager"], self.objects.get(key)
        owners = self.owners.get(key, {})
        wanted = _leaves(body)
        causes = [
            {
                "reason": "FieldManagerConflict",
                "field": "".join(f".{part}" for part in path),
                "message": f'conflict with "{other}"',
            }
            for path, value in wanted.items()
            for other, paths in owners.items()
            if other != manager and path in paths and _leaves(live or {}).get(path) != value
        ]
        if causes and query["force"] != "true":
            return _status(409, f"Apply failed with {len(causes)} conflicts", causes)
        after = _merged(copy.deepcopy(live or {}), body)
        for path in owners.get(manager, set()) - set(wanted):
            if not any(path in paths for other, paths in owners.items() if other != manager):
                _remove(after, path)
        if query.get("dryRun"):
            return JSONResponse(after)
        taken = {name: paths - set(wanted) for name, paths in owners.items() if name != manager}
        self.owners[key] = {**taken, manager: set(wanted)}
        return JSONResponse(self.write(key, after))


_METHODS = ["GET", "POST", "PATCH", "DELETE"]


async def _version(request: Request) -> Response:
    return JSONResponse({"gitVersion": "v1.34.1"})


def _status(code: int, message: str, causes: list[dict[str, str]] | None = None) -> Response:
    body = {"kind": "Status", "code": code, "message": message, "details": {"causes": causes or []}}
    return JSONResponse(body, code)


def _leaves(node: Any, path: Path = ()) -> dict[Path, Any]:
    """Values by path; a list counts as one value. What names the object has no owner."""
    if not isinstance(node, dict) or not node:
        return {path: node}
    found: dict[Path, Any] = {}
    for key, value in node.items():
        if (*path, key) not in _NAMES:
            found.update(_leaves(value, (*path, key)))
    return found


_NAMES = (("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace"))


def _merged(into: Object, patch: Object) -> Object:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            into[key] = _merged(dict(into[key]), value)
        else:
            into[key] = copy.deepcopy(value)
    return into


def _remove(thing: Object, path: Path) -> None:
    *parents, last = path
    for part in parents:
        thing = thing.get(part, {})
    thing.pop(last, None)


def serving(api: Api) -> Iterator[str]:
    """Serve it on a free port; yields its address."""
    server = uvicorn.Server(uvicorn.Config(api.app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def kubeconfig(address: str) -> str:
    """A kubeconfig for it."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "dev"}}],
            "clusters": [{"name": "test", "cluster": {"server": address}}],
            "users": [{"name": "dev", "user": {"token": TOKEN}}],
        }
    )
