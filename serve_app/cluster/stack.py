"""What runs in a namespace for one release: its RayService, Ray clusters and pods."""

from __future__ import annotations

from collections.abc import Iterable

from serve_app.cluster.kube import Kube, Object, Ref
from serve_app.errors import NotFound, SettingsError
from serve_app.settings import ExpertSettings, from_text

RAY = "ray.io/v1"
INSTANCE = "app.kubernetes.io/instance"
CLUSTER, GROUP, TYPE = "ray.io/cluster", "ray.io/group", "ray.io/node-type"
_PORT = 8000


def service(kube: Kube, release: str) -> Object:
    """The RayService of a release: the one labelled so, or the one of that name.

    Raises:
        NotFound: There is none; says how to install one.
    """
    labelled = kube.find(RAY, "RayService", f"{INSTANCE}={release}")
    if labelled:
        return labelled[0]
    found = kube.get(Ref(RAY, "RayService", kube.namespace, release))
    if found is None:
        raise NotFound(
            f"no release {release!r} in namespace {kube.namespace!r}: put one there with "
            "`trivium k8s install`, or name another with --release and --namespace"
        )
    return found


def clusters(service: Object) -> list[str]:
    """Names of the Ray clusters of a RayService: the one that serves, then the one that starts."""
    status = service.get("status") or {}
    parts = (status.get(part) or {} for part in ("activeServiceStatus", "pendingServiceStatus"))
    return [part["rayClusterName"] for part in parts if part.get("rayClusterName")]


def upcoming(service: Object) -> Object:
    """A RayService without the cluster that another one is about to replace."""
    status = service.get("status") or {}
    if not (status.get("pendingServiceStatus") or {}).get("rayClusterName"):
        return service
    return {**service, "status": {k: v for k, v in status.items() if k != "activeServiceStatus"}}


def pods(kube: Kube, release: str, names: Iterable[str]) -> list[Object]:
    """Pods of some Ray clusters, and those that the release runs beside them."""
    beside = kube.find("v1", "Pod", f"{INSTANCE}={release},!{CLUSTER}")
    return beside + [pod for name in names for pod in kube.find("v1", "Pod", f"{CLUSTER}={name}")]


def front(service: Object) -> tuple[str, int]:
    """Name and port of the Kubernetes Service in front of the gateway.

    An incremental upgrade splits traffic between two clusters, each with a Service of its own.
    """
    strategy = (service["spec"].get("upgradeStrategy") or {}).get("type")
    if strategy == "NewClusterWithIncrementalUpgrade":
        return f"{(clusters(service) or [''])[-1]}-serve-svc", _PORT
    given = service["spec"].get("serveService") or {}
    name = (given.get("metadata") or {}).get("name")
    ports = (given.get("spec") or {}).get("ports") or ()
    return name or f"{service['metadata']['name']}-serve-svc", ports[0]["port"] if ports else _PORT


def expert(kube: Kube, service: Object) -> ExpertSettings:
    """The expert's settings, as the release's pods have them in a file.

    Raises:
        SettingsError: There is no such file, or it is none of ours.
    """
    name = f"{service['metadata']['name']}-config"
    found = kube.get(Ref("v1", "ConfigMap", kube.namespace, name)) or {}
    text = (found.get("data") or {}).get("settings.yaml")
    if text is None:
        raise SettingsError(f"there is no settings.yaml in ConfigMap/{name}")
    return from_text(text, f"ConfigMap/{name}").expert


def is_ready(pod: Object) -> bool:
    """Whether a pod takes traffic."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
