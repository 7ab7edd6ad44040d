"""The Kubernetes API as these commands see it: plain objects, and a deadline on every call.

Credentials, TLS and transport are the `kubernetes` package's. Its dynamic client is left alone: it
looks kinds up without a deadline, and keeps what it found in a file under /tmp.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import urllib3

from serve_app.cluster.refusals import UnknownKind, reason, refusal
from serve_app.errors import NotFound, SettingsError, TriviumError, Unavailable

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Object = dict[str, Any]

MANAGER = "helm"  # of the fields of a release
_DEADLINE_S = 15.0
_APPLY = "application/apply-patch+yaml"
_DEFAULT = Path("~/.kube/config")


class Ref(NamedTuple):
    """Names one object; `namespace` is empty for those that live in none."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, thing: Mapping[str, Any]) -> Ref:
        meta = thing["metadata"]
        return cls(thing["apiVersion"], thing["kind"], meta.get("namespace", ""), meta["name"])

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class Kube:
    """One cluster, seen from one namespace."""

    def __init__(self, api: ApiClient, namespace: str) -> None:
        self._api = api
        self.namespace = namespace
        self._kinds: dict[str, dict[str, Object]] = {}

    @classmethod
    def connect(cls, kubeconfig: Path | None, context: str | None, namespace: str) -> Kube:
        """By a kubeconfig; inside a pod without one, by the pod's service account.

        Raises:
            SettingsError: There is neither, or it cannot be used.
        """
        from kubernetes import client, config

        settings = client.Configuration()
        settings.retries = False  # a command that is watched says at once that nobody answers
        path = kubeconfig or _DEFAULT.expanduser()
        try:
            if kubeconfig or context or path.exists():
                config.load_kube_config(str(path), context, settings, persist_config=False)
            else:
                config.load_incluster_config(settings)
        except (config.ConfigException, OSError) as error:
            raise SettingsError(
                f"no cluster to talk to: {error}; name one with --kubeconfig and --context"
            ) from None
        return cls(client.ApiClient(settings), namespace)

    @property
    def host(self) -> str:
        return str(self._api.configuration.host)

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """One call; returns the body.

        Raises:
            Unavailable: Nobody answers.
            TriviumError: The answer is an error; its message is the API server's.
        """
        from kubernetes.client import ApiException

        sent = {"Accept": "application/json, */*", "Content-Type": content_type, **(headers or {})}
        call = self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=sent,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._api.call_api(*call, _request_timeout=_DEADLINE_S)
            data: bytes = response.read()
        except (urllib3.exceptions.HTTPError, ApiException) as error:
            raise Unavailable(
                f"the Kubernetes API at {self.host} does not answer ({reason(error)}): is the "
                "cluster up, and is this the right --context?"
            ) from None
        if response.status >= 400:
            raise refusal(response.status, data)
        return data

    def json(self, method: str, path: str, **more: Any) -> Object:
        """The same, for calls that answer with an object."""
        answer: Object = json.loads(self.request(method, path, **more))
        return answer

    def resource(self, api_version: str, kind: str) -> Object:
        """How the cluster serves a kind: `name` in paths, `namespaced`.

        Raises:
            UnknownKind: It does not.
        """
        if api_version not in self._kinds:
            try:
                found = self.json("GET", _root(api_version))["resources"]
            except NotFound:
                found = []
            self._kinds[api_version] = {e["kind"]: e for e in found if "/" not in e["name"]}
        try:
            return self._kinds[api_version][kind]
        except KeyError:
            raise UnknownKind(f"the cluster does not know {kind} of {api_version}") from None

    def place(self, thing: Object) -> Object:
        """The object with the namespace that it will live in."""
        try:
            lives_in_one = self.resource(thing["apiVersion"], thing["kind"])["namespaced"]
        except UnknownKind:
            lives_in_one = True
        meta = dict(thing["metadata"])
        if lives_in_one:
            meta["namespace"] = meta.get("namespace") or self.namespace
        else:
            meta.pop("namespace", None)
        return {**thing, "metadata": meta}

    def get(self, ref: Ref) -> Object | None:
        """The object, or None if there is none."""
        try:
            return self.json("GET", self._path(ref))
        except NotFound:
            return None

    def find(
        self, api_version: str, kind: str, labels: str = "", everywhere: bool = False
    ) -> list[Object]:
        """Objects of a kind with some labels: in this namespace, or in all."""
        served = self.resource(api_version, kind)
        inside = served["namespaced"] and not everywhere
        path = self._collection(api_version, served, self.namespace if inside else "")
        query = {"limit": "500", **({"labelSelector": labels} if labels else {})}
        found: list[Object] = []
        while True:
            page = self.json("GET", path, query=query)
            found += page.get("items", ())
            if not (token := page["metadata"].get("continue")):
                return [{"apiVersion": api_version, "kind": kind, **each} for each in found]
            query["continue"] = token

    def create(self, thing: Object, dry_run: bool) -> Object:
        """Put an object there that is not there yet, or ask whether that would be let in."""
        ref = Ref.of({**thing, "metadata": {"name": "", **thing["metadata"]}})
        served = self.resource(ref.api_version, ref.kind)
        path = self._collection(ref.api_version, served, ref.namespace)
        query = {"dryRun": "All"} if dry_run else {}
        return self.json("POST", path, query={"fieldManager": MANAGER, **query}, body=thing)

    def apply(
        self, thing: Object, dry_run: bool = False, force: bool = False, manager: str = MANAGER
    ) -> Object:
        """Server-side apply; returns the object as it is, or would be.

        Raises:
            Conflict: Another manager owns a field, and `force` is off; names fields and owner.
        """
        query = {"fieldManager": manager, "force": str(force).lower()}
        if dry_run:
            query["dryRun"] = "All"
        path = self._path(Ref.of(thing))
        try:
            return self.json("PATCH", path, query=query, body=thing, content_type=_APPLY)
        except TriviumError as error:
            error.message = f"{Ref.of(thing)}: {error.message}"
            raise

    def proxy(
        self,
        service: str,
        port: int,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """GET a page of a service in this namespace, through the API server."""
        root = f"/api/v1/namespaces/{self.namespace}/services/{service}:{port}/proxy/"
        return self.request("GET", root + path.lstrip("/"), query, headers=headers)

    def log(self, pod: str, container: str, previous: bool, lines: int = 40) -> list[str]:
        """The last lines that a container wrote, or that the one before it wrote."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        query = {
            "container": container,
            "tailLines": str(lines),
            "previous": str(previous).lower(),
        }
        return self.request("GET", path, query=query).decode("utf-8", "replace").splitlines()

    def may(self, verb: str, group: str, resource: str, namespace: str | None) -> bool:
        """Whether the caller may do this; `resource` with its subresource, `pods/log`."""
        name, _, sub = resource.partition("/")
        asked = {"verb": verb, "group": group, "resource": name, "subresource": sub}
        if namespace:
            asked["namespace"] = namespace
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self.json("POST", path, body=body)["status"]["allowed"])

    def versions(self) -> tuple[str, list[str]]:
        """The server's own version, and every `group/version` that it serves."""
        own = self.json("GET", "/version")["gitVersion"]
        groups = self.json("GET", "/apis")["groups"]
        return own, ["v1", *(v["groupVersion"] for group in groups for v in group["versions"])]

    def _path(self, ref: Ref) -> str:
        served = self.resource(ref.api_version, ref.kind)
        inside = (ref.namespace or self.namespace) if served["namespaced"] else ""
        return f"{self._collection(ref.api_version, served, inside)}/{quote(ref.name)}"

    @staticmethod
    def _collection(api_version: str, served: Object, namespace: str) -> str:
        inside = f"/namespaces/{quote(namespace)}" if namespace else ""
        return f"{_root(api_version)}{inside}/{served['name']}"


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
