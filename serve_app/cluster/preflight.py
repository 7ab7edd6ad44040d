"""May these manifests be put on this cluster? Every answer that is no comes with its remedy."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from serve_app.cluster import manifests, needs
from serve_app.cluster.admission import admission
from serve_app.cluster.capacity import gpus, quota
from serve_app.cluster.declared import settings
from serve_app.cluster.drivers import drivers
from serve_app.cluster.findings import Check, Finding, Plan
from serve_app.cluster.kube import Object, Ref
from serve_app.cluster.refusals import UnknownKind
from serve_app.errors import PermissionDenied

_OPERATOR = (1, 6)  # the oldest KubeRay with everything that the chart sets

# How each API group comes into a cluster.
_SOURCES = {
    "ray.io": "install the KubeRay operator, 1.6 or newer, with its CRDs",
    "gateway.networking.k8s.io": "install the Gateway API CRDs, or take an Ingress instead",
    "monitoring.coreos.com": "install the Prometheus operator, or turn the chart's monitors off",
    "external-secrets.io": "install External Secrets, or name existing secrets",
    "cert-manager.io": "install cert-manager, or name an existing TLS secret",
    "milvus.io": "install the Milvus operator, or use a Milvus that is there",
}


def run(plan: Plan, ignored: Collection[str] = ()) -> list[Finding]:
    """Every check. What an ignored one finds is shown, and stops nothing.

    Raises:
        Unavailable: The API server does not answer.
    """
    return [
        replace(found, level="warning") if found.level == "failed" and name in ignored else found
        for name, check in CHECKS.items()
        for found in _guarded(name, check, plan)
    ]


def _guarded(name: str, check: Check, plan: Plan) -> Iterator[Finding]:
    """A check that may not look says so, and stops nothing."""
    try:
        yield from check(plan)
    except PermissionDenied as error:
        yield Finding(
            name, "warning", f"cannot be checked: {error.message}", "ask for the right to read it"
        )
    except UnknownKind as error:
        yield Finding(name, "warning", f"cannot be checked: {error.message}", "")


def _kinds(plan: Plan) -> Iterator[Finding]:
    asked = {(each["apiVersion"], each["kind"]) for each in plan.objects}
    _, served = plan.kube.versions()
    missing: dict[str, list[str]] = {}
    for version, kind in sorted(asked):
        try:
            plan.kube.resource(version, kind)
        except UnknownKind:
            missing.setdefault(version, []).append(kind)
    for version, kinds in missing.items():
        group = version.partition("/")[0]
        others = [each for each in served if each.startswith(f"{group}/") and each != version]
        what = f"the cluster does not know {', '.join(kinds)} of {version}"
        if others:
            what += f" (of {group} it serves {', '.join(others)})"
        remedy = _SOURCES.get(group, f"install the CRDs of {group}")
        yield Finding("kinds", "failed", what, remedy)
    if not missing:
        yield Finding("kinds", "ok", f"the cluster knows all {len(asked)} kinds")


def _operator(plan: Plan) -> Iterator[Finding]:
    label = "app.kubernetes.io/name=kuberay-operator"
    found = plan.kube.find("apps/v1", "Deployment", label, everywhere=True)
    remedy = (
        "helm upgrade --install kuberay-operator kuberay-operator --version 1.7.0 "
        "--repo https://ray-project.github.io/kuberay-helm/ -n kuberay-system --create-namespace"
    )
    if not found:
        yield Finding("operator", "failed", "no KubeRay operator runs in this cluster", remedy)
        return
    image = _image(found[0])
    where = found[0]["metadata"]["namespace"]
    parts = re.search(r":v?(\d+)\.(\d+)", image)
    if not (found[0].get("status") or {}).get("availableReplicas"):
        look = f"kubectl -n {where} describe deployment {found[0]['metadata']['name']}"
        yield Finding("operator", "failed", f"the KubeRay operator in {where} is not up", look)
    elif parts is None:
        yield Finding("operator", "warning", f"the KubeRay operator's version is not in {image}")
    elif (version := (int(parts[1]), int(parts[2]))) < _OPERATOR:
        told = f"the KubeRay operator in {where} is {version[0]}.{version[1]}, 1.6 is needed"
        yield Finding("operator", "failed", told, remedy)
    else:
        yield Finding("operator", "ok", f"KubeRay {version[0]}.{version[1]} in {where}")


def _image(deployment: Object) -> str:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return next((c["image"] for c in containers if "operator" in c["image"]), "")


def _gateway(plan: Plan) -> Iterator[Finding]:
    """An incremental upgrade shifts traffic at a Gateway that the operator makes."""
    service = manifests.ray_service(plan.objects) or {"spec": {}}
    options = (service["spec"].get("upgradeStrategy") or {}).get("clusterUpgradeOptions")
    if not options:
        return
    name, another = options.get("gatewayClassName"), "or upgrade with strategy NewCluster"
    try:
        classes = plan.kube.find("gateway.networking.k8s.io/v1", "GatewayClass")
    except UnknownKind as error:
        remedy = f"install the Gateway API CRDs, {another}"
        yield Finding("gateway", "failed", f"{error.message}, which splits the traffic", remedy)
        return
    if name in (names := {each["metadata"]["name"] for each in classes}):
        yield Finding("gateway", "ok", f"class {name}")
    else:
        there = f"name one that is there ({', '.join(sorted(names)) or 'none is'}), {another}"
        yield Finding("gateway", "failed", f"there is no GatewayClass {name}", there)


def _namespace(plan: Plan) -> Iterator[Finding]:
    name = plan.kube.namespace
    if plan.kube.get(Ref("v1", "Namespace", "", name)) is None:
        yield Finding(
            "namespace",
            "failed",
            f"there is no namespace {name}",
            f"kubectl create namespace {name}",
        )
    else:
        yield Finding("namespace", "ok", name)


def _permissions(plan: Plan) -> Iterator[Finding]:
    denied: dict[str, list[str]] = {}
    for verb, group, resource, namespace in sorted(_rights(plan), key=str):
        if not plan.kube.may(verb, group, resource, namespace):
            denied.setdefault(f"{resource}.{group}".rstrip("."), []).append(verb)
    for resource, verbs in denied.items():
        yield Finding(
            "permissions",
            "failed",
            f"you may not {', '.join(verbs)} {resource} in namespace {plan.kube.namespace}",
            "ask a cluster admin for a Role with these verbs, or name another user with --context",
        )
    if not denied:
        yield Finding("permissions", "ok", "you may do all that this takes")


def _rights(plan: Plan) -> set[tuple[str, str, str, str | None]]:
    """(verb, API group, resource, namespace) of all that an installation does."""
    rights: set[tuple[str, str, str, str | None]] = {
        (verb, "", resource, plan.kube.namespace)
        for resource, verbs in _WATCHED.items()
        for verb in verbs
    }
    for thing in plan.objects:
        try:
            served = plan.kube.resource(thing["apiVersion"], thing["kind"])
        except UnknownKind:
            continue  # another check's
        group = thing["apiVersion"].rpartition("/")[0]
        inside = thing["metadata"].get("namespace") if served["namespaced"] else None
        rights |= {
            (verb, group, served["name"], inside)
            for verb in ("get", "list", "watch", "create", "patch")
        }
    return rights


_HELMS = ("get", "list", "watch", "create", "patch")
# Pods, logs and events are read while it starts; Helm keeps its revisions in secrets.
_WATCHED: Mapping[str, tuple[str, ...]] = {
    "pods": ("list",),
    "pods/log": ("get",),
    "events": ("list",),
    "services/proxy": ("get",),
    "secrets": ("get", "list", "create", "update", "delete"),
}


def _secrets(plan: Plan) -> Iterator[Finding]:
    asked = needs.secrets(plan.objects)
    for each in asked:
        found = plan.kube.get(Ref("v1", "Secret", plan.kube.namespace, each.name))
        if found is None:
            literals = " ".join(f"--from-literal={key}=…" for key in sorted(each.keys))
            make = f"kubectl -n {plan.kube.namespace} create secret generic {each.name} {literals}"
            yield Finding("secrets", "failed", f"there is no secret {each.name}", make.rstrip())
        elif missing := sorted(each.keys - set(found.get("data") or {})):
            yield Finding(
                "secrets",
                "failed",
                f"secret {each.name} has no key {', '.join(missing)}",
                f"add it to the secret; it has: {', '.join(sorted(found.get('data') or {}))}",
            )
        else:
            yield Finding(
                "secrets", "ok", f"{each.name}: {', '.join(sorted(each.keys)) or 'whole'}"
            )


def _storage(plan: Plan) -> Iterator[Finding]:
    claims = needs.claims(plan.objects)
    classes = plan.kube.find("storage.k8s.io/v1", "StorageClass") if claims else []
    names = {each["metadata"]["name"] for each in classes}
    standard = any(_is_default(each) for each in classes)
    for claim in claims:
        wanted = claim["spec"].get("storageClassName")
        name = claim["metadata"]["name"]
        if wanted is None and not standard:
            what = f"volume claim {name} names no storage class and the cluster has no default one"
            yield Finding("storage", "failed", what, _choose(names))
        elif wanted and wanted not in names:
            what = f"volume claim {name} asks for storage class {wanted}, which is not there"
            yield Finding("storage", "failed", what, _choose(names))
        else:
            yield Finding("storage", "ok", f"{name}: {wanted or 'default class'}")
    for name in sorted(needs.mounted_claims(plan.objects)):
        if plan.kube.get(Ref("v1", "PersistentVolumeClaim", plan.kube.namespace, name)) is None:
            what = f"pods mount volume claim {name}, which is not there"
            yield Finding("storage", "failed", what, "create it, or let the chart do so")


def _is_default(storage_class: Object) -> bool:
    annotations = storage_class["metadata"].get("annotations") or {}
    return annotations.get("storageclass.kubernetes.io/is-default-class") == "true"


def _choose(names: Collection[str]) -> str:
    if not names:
        return "install a storage driver: the cluster has no storage class at all"
    return f"name one that is there: {', '.join(sorted(names))}"


CHECKS: Mapping[str, Check] = {
    "settings": settings,
    "namespace": _namespace,
    "kinds": _kinds,
    "operator": _operator,
    "gateway": _gateway,
    "permissions": _permissions,
    "secrets": _secrets,
    "gpus": gpus,
    "drivers": drivers,
    "storage": _storage,
    "quota": quota,
    "admission": admission,
}
