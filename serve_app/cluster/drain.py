"""What a Ray pod does before it ends: `preStop` of the chart's pods.

    python -m serve_app.cluster.drain --address head:6379 --replace 60 --finish 300

By then Kubernetes has taken the pod out of the Service. Serve is told that the node leaves: it
starts the node's replicas elsewhere, then lets those here finish what they answer. The pod stays
until they and the node's proxy are gone. A head cannot be replaced: it stays until nobody is
answered here.
"""

from __future__ import annotations

import argparse
import sys
import time
from socket import create_connection
from urllib.request import urlopen

import psutil

REPLICA, PROXIES = "ray::ServeReplica", ("ray::ProxyActor", "ray::HAProxyManager")
METRICS = "http://127.0.0.1:8080/metrics"
ONGOING = "ray_serve_replica_processing_queries"
# Nodes learn after the pod does that its Service has forgotten it.
FORGOTTEN_S = 5
# Ray reports its metrics every ten seconds.
REPORTED_S = 20
_GCS_TIMEOUT_S = 10


def leave(address: str, deadline_s: int) -> bool:
    """Tell Ray that this node leaves; whether it is one that can be replaced.

    Raises:
        RuntimeError: Ray does not know this node, or cannot be reached.
    """
    # Imported here: it takes a second, and arguments are checked before.
    from ray._private.services import get_node_ip_address
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2, gcs_pb2

    client = GcsClient(address=address)
    here, alive = get_node_ip_address(), gcs_pb2.GcsNodeInfo.ALIVE
    nodes = client.get_all_node_info(timeout=_GCS_TIMEOUT_S).values()
    own = [n for n in nodes if n.node_manager_address == here and n.state == alive]
    if not own:
        raise RuntimeError(f"Ray has no node at {here}")
    if own[0].is_head_node:
        return False
    accepted, reason = client.drain_node(
        own[0].node_id.hex(),
        autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION,
        "its pod is deleted",
        int((time.time() + deadline_s) * 1000),
    )
    if not accepted:
        raise RuntimeError(f"Ray refuses to drain it: {reason}")
    return True


def replaced(address: str, ends: float) -> None:
    """Return when Serve has nothing in this pod any more, or nobody is left to take it away.

    A cluster that is deleted loses its head first.
    """
    seen = time.monotonic()
    while hosts(REPLICA, *PROXIES) and time.monotonic() < ends:
        if reachable(address):
            seen = time.monotonic()
        elif time.monotonic() > seen + REPORTED_S and not answers():
            return
        time.sleep(1)


def reachable(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def hosts(*kinds: str) -> bool:
    """Whether Serve's actors of these kinds run in this pod."""
    for process in psutil.process_iter(["cmdline"]):
        if " ".join(process.info["cmdline"] or ()).startswith(kinds):
            return True
    return False


def answers() -> bool:
    """Whether replicas in this pod answer somebody, as of some seconds ago."""
    try:
        with urlopen(METRICS, timeout=5) as page:
            lines = page.read().decode().splitlines()
    except OSError:
        return False  # Ray is gone, and its replicas with it
    return any(
        line.startswith(f"{ONGOING}{{") and float(line.rpartition(" ")[2]) > 0 for line in lines
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="serve_app.cluster.drain")
    parser.add_argument("--address", required=True, help="of Ray's head, as host:port")
    parser.add_argument("--replace", type=int, required=True, help="seconds for other replicas")
    parser.add_argument("--finish", type=int, required=True, help="seconds a request may take")
    options = parser.parse_args(arguments)
    patience = options.replace + options.finish
    ends = time.monotonic() + patience
    leaving = False
    try:
        leaving = leave(options.address, patience)
    except Exception as error:  # clients are let finish all the same
        print(f"Ray is not told: {error}", file=sys.stderr)
    time.sleep(FORGOTTEN_S)
    if leaving:
        replaced(options.address, ends)
    elif hosts(REPLICA):
        time.sleep(REPORTED_S)
        while answers() and time.monotonic() < ends:
            time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1:])
