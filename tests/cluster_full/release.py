"""A release of the chart on the cluster, as its user sees it: helm, kubectl and the Service."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from serve_app.cluster import stack
from tools.chart_binaries import helm, kubectl

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "trivium"
HERE = Path(__file__).parent


class Refused(Exception):
    """A program failed; with what it said."""


def execute(*command: str, text: str | None = None, timeout_s: float = 120) -> str:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        raise Refused(f"{' '.join(command[:8])}: {(done.stderr + done.stdout).strip()[-3000:]}")
    return done.stdout


def awaited(what: str, seen: Callable[[], Any], timeout_s: float) -> Any:
    """What `seen` gives once that is true of something.

    Raises:
        AssertionError: It never was.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := seen():
            return found
        time.sleep(0.5)
    raise AssertionError(f"after {timeout_s:.0f} s there is not: {what}")


class Namespace:
    def __init__(self, name: str) -> None:
        self.name = name

    def kubectl(self, *arguments: str, text: str | None = None, timeout_s: float = 120) -> str:
        return execute(str(kubectl()), "-n", self.name, *arguments, text=text, timeout_s=timeout_s)

    def listed(self, kind: str, *arguments: str) -> list[Json]:
        found: list[Json] = json.loads(self.kubectl("get", kind, "-o", "json", *arguments))["items"]
        return found

    def create(self, *, restricted: bool) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"} if restricted else {}
        metadata = {"name": self.name, "labels": labels}
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        execute(str(kubectl()), "apply", "-f", "-", text=json.dumps(manifest))

    def delete(self) -> None:
        self.kubectl(
            "delete", "namespace", self.name, "--ignore-not-found", "--timeout=400s", timeout_s=420
        )


class Release(Namespace):
    """The release `trivium`, with values of a profile and of the tests."""

    def __init__(self, namespace: str, *values: Path) -> None:
        super().__init__(namespace)
        self.values = [part for path in values for part in ("-f", str(path))]

    def helm(self, *arguments: str, timeout_s: float = 300) -> str:
        return execute(str(helm()), "-n", self.name, *arguments, timeout_s=timeout_s)

    def apply(self, *more: str) -> None:
        """Install or upgrade; returns when Helm does, which is before anything is ready."""
        command = ["upgrade", "--install", "trivium", str(CHART)]
        self.helm(*command, *self.values, *more)

    def command(self, name: str, *arguments: str) -> str:
        """What `trivium k8s NAME` prints.

        Raises:
            Refused: It did not end well.
        """
        program = (sys.executable, "-m", "serve_app.cli", "k8s", name, "--namespace", self.name)
        return execute(*program, *arguments, timeout_s=900)

    def test(self) -> str:
        """What `helm test` prints."""
        return self.helm("test", "trivium", "--timeout", "5m", "--logs", timeout_s=320)

    def uninstall(self) -> None:
        """Return when nothing runs any more.

        A namespace that is deleted earlier waits for half the pods' grace.
        """
        self.helm("uninstall", "trivium", "--ignore-not-found")
        awaited("a namespace without clusters", lambda: not self.listed("rayclusters"), 400)
        awaited("a namespace without pods", lambda: not self.listed("pods"), 400)

    @property
    def service(self) -> Json:
        found: Json = json.loads(self.kubectl("get", "rayservice", "trivium", "-o", "json"))
        return found

    @property
    def cluster(self) -> str:
        """The RayCluster that answers."""
        status = self.service.get("status", {}).get("activeServiceStatus", {})
        return str(status.get("rayClusterName", ""))

    def states(self) -> dict[str, str]:
        """State of each application, with the reason of one that is not deployed."""
        status = self.service.get("status", {})
        both = (status.get("activeServiceStatus", {}), status.get("pendingServiceStatus", {}))
        found: dict[str, str] = {}
        for each in both:
            for name, told in each.get("applicationStatuses", {}).items():
                found[name] = f"{told['status']} {told.get('message', '')}".strip()
        return found

    def is_ready(self) -> bool:
        """The only cluster is as it shall be, by the operator and every part of the application."""
        states, service = self.states(), self.service
        failed = {n: s for n, s in states.items() if s.startswith("DEPLOY_FAILED")}
        assert not failed, failed
        status = service.get("status", {})
        if status.get("observedGeneration", 0) < service["metadata"]["generation"]:
            return False  # nobody has looked at the latest yet
        if len(self.listed("rayclusters")) != 1:
            return False
        conditions = status.get("conditions", ())
        ready = {each["type"]: each["status"] for each in conditions}.get("Ready") == "True"
        return ready and bool(states) and set(states.values()) == {"RUNNING"}

    def wait_ready(self, timeout_s: float = 600) -> None:
        awaited("a release that is ready", self.is_ready, timeout_s)

    def serving(self) -> dict[str, Json]:
        """Ray Serve's own word of each deployment, by its name."""
        told = json.loads(self.dashboard("api/serve/applications/"))
        return {
            name: deployment
            for application in told["applications"].values()
            for name, deployment in application["deployments"].items()
        }

    def dashboard(self, path: str) -> str:
        """A page of Ray's, read in the head pod."""
        (head,) = self.pods("head")
        token = '--header="Authorization: Bearer $RAY_AUTH_TOKEN"'
        page = f"wget -qO- {token} 'http://127.0.0.1:8265/{path}'"
        return self.kubectl("exec", head, "-c", "ray-head", "--", "sh", "-c", page)

    def replicas(self) -> dict[str, set[str]]:
        """Ids of the replicas that run, by deployment."""
        return {
            name: {each["replica_id"] for each in told["replicas"] if each["state"] == "RUNNING"}
            for name, told in self.serving().items()
        }

    @property
    def url(self) -> str:
        service = json.loads(self.kubectl("get", "service", "trivium-serve-svc", "-o", "json"))
        return f"http://{service['spec']['clusterIP']}:8000"

    def pods(self, kind: str) -> list[str]:
        """Names of the Ray pods of a kind, `head` or `worker`, that nobody has deleted."""
        return [pod["metadata"]["name"] for pod in self._staying(kind)]

    def pod(self, seen: Json) -> Json:
        """The same pod as it is now."""
        now: Json = json.loads(self.kubectl("get", "pod", seen["metadata"]["name"], "-o", "json"))
        return now

    def keep_logs(self, folder: Path) -> None:
        """Ray's and Serve's logs of every pod, and what the cluster says of them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("rayservice", "pods", "events"):
            (folder / f"{name}.yaml").write_text(self.kubectl("get", name, "-o", "yaml"), "utf-8")
        packed = "tar -C /tmp/ray -chz session_latest/logs --ignore-failed-read | base64"
        for pod in (*self.pods("head"), *self.pods("worker")):
            inside = ("exec", pod, "--", "sh", "-c", packed)
            with suppress(Refused):  # one that has just gone
                (folder / f"{pod}.tgz").write_bytes(b64decode(self.kubectl(*inside)))

    def ready(self, kind: str) -> int:
        """How many of those are ready."""
        return sum(map(stack.is_ready, self._staying(kind)))

    def _staying(self, kind: str) -> list[Json]:
        found = self.listed("pods", "-l", f"ray.io/node-type={kind}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
