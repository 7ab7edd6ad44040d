"""What stands in the cluster of the tests, and the ways in which its KubeRay operator acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.cluster import kubelet
from tests.cluster.api import Api, Object

NAMESPACE = "trivium"


def furnish(api: Api) -> None:
    """Namespace, operator, nodes, storage class, secret; an operator that succeeds."""
    api.put(named("v1", "Namespace", NAMESPACE))
    api.put(operator("1.7.0"))
    api.put(node("cpu-1", "m7i.2xlarge", {"cpu": "8", "memory": "32Gi"}))
    api.put(gpu_node())
    api.put(named("storage.k8s.io/v1", "StorageClass", "fast"))
    api.put(
        {**named("v1", "Secret", "trivium-secrets", NAMESPACE), "data": {"ledger-password": "eA=="}}
    )
    api.operator = succeeds


def named(api_version: str, kind: str, name: str, namespace: str = "", **labels: str) -> Object:
    meta: Object = {"name": name, "labels": labels}
    if namespace:
        meta["namespace"] = namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": meta}


def operator(version: str) -> Object:
    thing = named("apps/v1", "Deployment", "kuberay-operator", "kuberay-system")
    thing["metadata"]["labels"]["app.kubernetes.io/name"] = "kuberay-operator"
    image = f"quay.io/kuberay/operator:v{version}"
    thing["spec"] = {"template": {"spec": {"containers": [{"name": "kuberay", "image": image}]}}}
    thing["status"] = {"availableReplicas": 1}
    return thing


def node(
    name: str,
    instance: str,
    allocatable: dict[str, str],
    labels: dict[str, str] | None = None,
    taints: list[Object] | None = None,
) -> Object:
    thing = named("v1", "Node", name)
    thing["metadata"]["labels"] = {
        **({"node.kubernetes.io/instance-type": instance} if instance else {}),
        **(labels or {}),
    }
    thing["spec"] = {"taints": taints or []}
    thing["status"] = {"allocatable": allocatable}
    return thing


def gpu_node() -> Object:
    gpus = {"cpu": "48", "memory": "192Gi", "nvidia.com/gpu": "4"}
    labels = {"gpu": "a10g", "nvidia.com/gpu.product": "NVIDIA-A10G"}
    taint = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
    return node("gpu-1", "g5.12xlarge", gpus, labels, [taint])


# --- how the operator acts -----------------------------------------------------------------------


def succeeds(api: Api, service: Object) -> None:
    """A new cluster takes over and every road answers, as far as the manifests let it."""
    cluster = _cluster(api, service)
    _pods(api, service, cluster, ready=False)
    new = [each for each in api.objects.values() if _cluster_of(each) == cluster]
    waiting = [each for each in new if _waits(api, each)]
    if waiting:
        _status(service, "pendingServiceStatus", cluster, "", ready=False)
        return
    _pods(api, service, cluster, ready=True)
    if told := kubelet.fault(service):
        _status(
            service, "pendingServiceStatus", cluster, "DEPLOY_FAILED", ready=False, message=told
        )
        return
    _status(service, "activeServiceStatus", cluster, "RUNNING", ready=True)
    api.pages["trivium-serve-svc:8000", "/readyz"] = (200, '{"status": "ready"}')


def gets_a_node(api: Api, service: Object) -> None:
    """A node with GPUs comes for the pods that wait for one."""
    api.put(gpu_node())
    succeeds(api, service)


def _cluster_of(thing: Object) -> str | None:
    labels = thing["metadata"].get("labels") or {}
    return labels.get("ray.io/cluster") if thing["kind"] == "Pod" else None


def _waits(api: Api, pod: Object) -> bool:
    """Whether a pod cannot start; its status says why."""
    pod["spec"].pop("nodeName")
    node = kubelet.place(api, pod)
    if node is None:
        said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        message = "0/2 nodes are available: none has room, or their taints are not tolerated."
        pod["status"]["conditions"] = [{**said, "message": message}]
        return True
    pod["spec"]["nodeName"] = node
    if told := kubelet.missing(api, pod):
        waiting = {"reason": "CreateContainerConfigError", "message": told}
        name = pod["spec"]["containers"][0]["name"]
        pod["status"]["containerStatuses"] = [
            {"name": name, "restartCount": 0, "state": {"waiting": waiting}}
        ]
        return True
    return False


def cannot_pull(api: Api, service: Object) -> None:
    """The GPU pod's image is not there; what served goes on."""
    cluster = _cluster(api, service)
    pod = _pods(api, service, cluster, ready=False)
    message = 'Back-off pulling image "example.com/trivium:2-gpu": not found'
    pod["status"]["containerStatuses"] = [
        {
            "name": "ray-worker",
            "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": message}},
        }
    ]
    _status(service, "pendingServiceStatus", cluster, "", ready=False)


def crashes(api: Api, service: Object) -> None:
    """The GPU pod's container ends with a traceback, again and again."""
    cluster = _cluster(api, service)
    pod = _pods(api, service, cluster, ready=False)
    pod["status"]["containerStatuses"] = [
        {
            "name": "ray-worker",
            "restartCount": 5,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"reason": "Error", "exitCode": 1}},
        }
    ]
    name = pod["metadata"]["name"]
    api.logs[name, "ray-worker", True] = (
        "loading the model\nTraceback (most recent call last):\n"
        "torch.OutOfMemoryError: CUDA out of memory\nshutting down\n"
    )
    _status(service, "pendingServiceStatus", cluster, "", ready=False)


def refuses_settings(api: Api, service: Object) -> None:
    """The application does not start, for a reason that Serve tells."""
    cluster = _cluster(api, service)
    _pods(api, service, cluster, ready=True)
    message = (
        "Traceback (most recent call last):\n  File ...\n"
        "serve_app.errors.SettingsError: no price for model 'x'"
    )
    _status(service, "pendingServiceStatus", cluster, "DEPLOY_FAILED", ready=False, message=message)


def cannot_schedule(api: Api, service: Object) -> None:
    """No node takes the GPU pod."""
    cluster = _cluster(api, service)
    pod = _pods(api, service, cluster, ready=False)
    pod["spec"].pop("nodeName")
    pod["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
        }
    ]
    _status(service, "pendingServiceStatus", cluster, "", ready=False)


def warms_up_forever(api: Api, service: Object) -> None:
    """The RayService is ready, one road does not answer."""
    succeeds(api, service)
    body = '{"status": "warming up", "waiting_for": ["knowledge"]}'
    api.pages["trivium-serve-svc:8000", "/readyz"] = (503, body)


def warms_up_beside(looks: int) -> Callable[[Api, Object], None]:
    """The new cluster takes over after so many looks at the RayService."""

    def act(api: Api, service: Object) -> None:
        cluster = _cluster(api, service)
        _pods(api, service, cluster, ready=False)
        _status(service, "pendingServiceStatus", cluster, "DEPLOYING", ready=False)
        api.later[service["metadata"]["name"]] = (looks, lambda: succeeds(api, service))

    return act


def only_an_event(api: Api, service: Object) -> None:
    """The operator makes no cluster, and says why in an event."""
    event = named("v1", "Event", "trivium.1", NAMESPACE)
    event |= {
        "type": "Warning",
        "reason": "InvalidRayServiceSpec",
        "message": "The RayService spec is invalid: gatewayClassName is required",
        "involvedObject": {"kind": "RayService", "name": service["metadata"]["name"]},
        "lastTimestamp": "2026-11-26T12:00:00Z",
    }
    api.put(event)


def _cluster(api: Api, service: Object) -> str:
    name = f"trivium-{service['metadata']['generation']}"
    cluster = named("ray.io/v1", "RayCluster", name, NAMESPACE)
    cluster["spec"] = service["spec"]["rayClusterConfig"]
    api.put(cluster)
    return name


def _pods(api: Api, service: Object, cluster: str, ready: bool) -> Object:
    """A pod for each group of a cluster; those of the one before are gone. Returns the last."""
    for key in [k for k, v in api.objects.items() if v["kind"] == "Pod" and ready]:
        del api.objects[key]
    config = service["spec"]["rayClusterConfig"]
    workers = config.get("workerGroupSpecs", [])
    groups = [("headgroup", config["headGroupSpec"]), *((w["groupName"], w) for w in workers)]
    made: list[Object] = []
    for group, spec in groups:
        pod = named("v1", "Pod", f"{cluster}-{group}", NAMESPACE)
        kind = "head" if group == "headgroup" else "worker"
        labels = {"ray.io/cluster": cluster, "ray.io/group": group, "ray.io/node-type": kind}
        pod["metadata"]["labels"] = labels
        place = "gpu-1" if "nvidia.com/" in str(spec) else "cpu-1"
        pod["spec"] = {**spec["template"]["spec"], "nodeName": place}
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        pod["status"] = {"phase": "Running" if ready else "Pending", "conditions": [condition]}
        api.put(pod)
        made.append(api.objects["v1", "pods", NAMESPACE, pod["metadata"]["name"]])
    return made[-1]


def _status(
    service: Object, part: str, cluster: str, app: str, ready: bool, message: str = ""
) -> None:
    deployments: dict[str, Any] = {"Gateway": {"status": "HEALTHY"}} if app == "RUNNING" else {}
    apps = {"trivium": {"status": app, "message": message, "serveDeploymentStatuses": deployments}}
    status = service.setdefault("status", {})
    status["observedGeneration"] = service["metadata"]["generation"]
    status[part] = {"rayClusterName": cluster, "applicationStatuses": apps if app else {}}
    if ready:
        status["pendingServiceStatus"] = {}
        reason = "NonZeroServeEndpoints"
        status["conditions"] = [{"type": "Ready", "status": "True", "reason": reason}]
