"""The restricted Pod Security Standard, as far as a pod template can break it.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ (baseline and restricted).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("image", "persistentVolumeClaim", "projected", "secret"),
}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
}
_SECCOMP = {"RuntimeDefault", "Localhost"}
_SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def breaches(pod: Json) -> Iterator[str]:
    """What the restricted standard forbids in a pod template."""
    spec = pod["spec"]
    context = spec.get("securityContext", {})
    yield from _context(context, "pod")
    yield from (
        f"sysctl {each['name']}"
        for each in context.get("sysctls", [])
        if each["name"] not in _SYSCTLS
    )
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is {kinds}"
    for group in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(group, []):
            for breach in _container(container, context):
                yield f"{container['name']}: {breach}"


def _container(container: Json, pod: Json) -> Iterator[str]:
    own = container.get("securityContext", {})
    yield from _context(own, "container")
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities are not dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
        yield "runAsNonRoot is not true"
    if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in _SECCOMP:
        yield "seccompProfile is not set"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    for port in container.get("ports", []):
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']}"
    for hook in (*container.get("lifecycle", {}).values(), *_probes(container)):
        if hook.get("httpGet", {}).get("host") or hook.get("tcpSocket", {}).get("host"):
            yield "a probe or hook names a host"


def _context(context: Json, whose: str) -> Iterator[str]:
    if context.get("runAsUser") == 0:
        yield f"the {whose} runs as root"
    if context.get("runAsNonRoot") is False:
        yield f"the {whose} may run as root"
    if context.get("seccompProfile", {}).get("type", "RuntimeDefault") not in _SECCOMP:
        yield f"the {whose}'s seccomp is off"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
        yield f"the {whose}'s AppArmor is off"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"the {whose} is a host process"
    labels = context.get("seLinuxOptions", {})
    if labels.get("type", "") not in _SELINUX or labels.get("user") or labels.get("role"):
        yield f"the {whose}'s SELinux labels"


def _probes(container: Json) -> list[Json]:
    return [container.get(f"{kind}Probe", {}) for kind in ("liveness", "readiness", "startup")]
