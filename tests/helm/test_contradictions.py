"""Values that contradict each other fail, and the message names the key and the remedy."""

from __future__ import annotations

import pytest

from tests.helm.chart import Refused, of_profile, render

_ROUTE = "httpRoute.parentRefs[0].name=g"

# Profile, what is set, the key that is named, the remedy.
CASES: list[tuple[str, list[str], str, str]] = [
    (
        "gpu",
        ["workers.gpu.gpu.count=0"],
        "settings.expert.accelerator",
        "set workers.gpu.gpu.count",
    ),
    ("gpu", ["workers.gpu.enabled=false"], "settings.expert.accelerator", "accelerator to cpu"),
    ("gpu", ["settings.expert.accelerator=cpu"], "workers.gpu has GPUs", "set it to gpu"),
    ("gpu", ["scaling.expert.max_replicas=5"], "scaling.expert.max_replicas (5)", "maxReplicas"),
    ("gpu", ["settings.expert.engine.tensor_parallel_size=4"], "4 GPUs", "tensor_parallel_size"),
    (
        "gpu",
        ["settings.expert.engine.tensor_parallel_size=4"],
        "never span pods",
        "set workers.gpu.gpu.count to 4",
    ),
    ("gpu", ["scaling.expert.num_cpus=4"], "scaling.expert.num_cpus (4)", "set it to 0"),
    ("gpu", ["workers.cpu.minReplicas=9"], "workers.cpu.minReplicas (9)", "raise maxReplicas"),
    ("gpu", ["workers.head.maxReplicas=1"], "workers.head", "call the group otherwise"),
    ("gpu", ["workers.cpu.numCpus=0"], "Ray CPUs at least", "raise workers.<group>.numCpus"),
    ("gpu", ["milvus.standalone.enabled=false"], "milvus.uri is empty", "to a server"),
    ("gpu", ["ledger.database="], "ledger.database is empty", "set ledger.database to postgresql"),
    ("gpu", ["milvus.uri=http://other:19530"], "milvus.uri and", "empty milvus.uri"),
    ("gpu", ["secrets.existingSecret="], "secrets.env", "set secrets.existingSecret"),
    (
        "gpu",
        ["state.claim.enabled=true", "state.claim.accessMode=ReadWriteOnce"],
        "state.claim.accessMode",
        "ReadWriteMany",
    ),
    (
        "gpu",
        ["ledger.database=postgresql://me:hidden@host/name"],
        "ledger.database holds a password",
        "put it into secrets.env",
    ),
    ("kind", ["scaling.retrieval.max_replicas=2"], "milvus.uri is empty", "standalone.enabled"),
    ("kind", ["scaling.gateway.max_replicas=2"], "ledger.database is empty", "set ledger.database"),
    ("kind", ["scaling.router.min_replicas=2"], "scaling.router.min_replicas (2)", "lower"),
    ("kind", ["head.numCpus=1"], "head.numCpus", "lower scaling"),
    ("kind", ["ingress.enabled=true"], "ingress.enabled without a host", "set ingress.hosts"),
    ("kind", ["httpRoute.enabled=true", _ROUTE], "without a host", "set httpRoute.hostnames"),
    (
        "kind",
        ["httpRoute.enabled=true", "httpRoute.hostnames={a.b}"],
        "without a Gateway",
        "set httpRoute.parentRefs",
    ),
    (
        "kind",
        ["upgrade.strategy=NewClusterWithIncrementalUpgrade", "ray.autoscaling=true"],
        "without upgrade.gatewayClassName",
        "strategy to NewCluster",
    ),
    (
        "production",
        ["ray.autoscaling=false"],
        "ray.autoscaling false",
        "set ray.autoscaling to true",
    ),
    ("production", ["upgrade.stepSizePercent=50"], "upgrade.stepSizePercent (50)", "lower it"),
    ("production", ["settings.frontier.key_from=OTHER_KEY"], "no OTHER_KEY", "set secrets.env"),
    ("production", ["secrets.externalSecret.store.name="], "without a store", "store.name"),
    ("production", ["tracing.endpoint=http://a"], "tracing.endpoint and", "collector.exportTo"),
    ("production", ["tracing.collector.exportTo="], "without tracing.collector.exportTo", "set"),
    (
        "production",
        ["settings.ledger.limits[0].usd=20000"],
        "usd 20000 a day",
        "lower the day's",
    ),
    ("kind", ["machinePrices.enabled=true"], "machinePrices.enabled", "to false"),
    ("kind", ["schedules.age.schedule=* * * * *"], "schedules.age", "command"),
    (
        "production",
        ["client.apiKeySecret.name="],
        "schedules have no API key",
        "set client.apiKeySecret.name",
    ),
    ("kind", ["jobs.ingest.numCpus=1"], "jobs.ingest", "set jobs.ingest.entrypoint"),
    ("kind", ["state.preload=true"], "state.preload fills a claim", "set state.claim.enabled"),
    ("kind", ["state.preload=true"], "is no hub id", "set it to one such as"),
    ("kind", ["proxy.https=http://me:hidden@p:1"], "proxy.https holds", "as HTTPS_PROXY"),
    ("kind", ["modelImage=a"], "modelImage needs Kubernetes", "use state.claim"),
]


@pytest.mark.parametrize(("profile", "values", "key", "remedy"), CASES)
def test_a_contradiction_is_refused(profile: str, values: list[str], key: str, remedy: str) -> None:
    given = [part for value in values for part in ("--set", value)]
    with pytest.raises(Refused) as caught:
        render(*of_profile(profile), *given, "--kube-version", "1.32.0")
    said = str(caught.value)
    assert key in said
    assert remedy in said
    assert "hidden" not in said


def test_all_contradictions_are_named_at_once() -> None:
    with pytest.raises(Refused) as caught:
        render("--set", "ingress.enabled=true", "--set", "scaling.router.min_replicas=2")
    assert "set ingress.hosts" in str(caught.value)
    assert "scaling.router.min_replicas" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("upgrade.strategy=Recreate", "strategy"),
        ("milvus.uri=milvus:19530", "uri"),
        ("ledger.database=mysql://host/name", "database"),
        ("head.numCpus=-1", "numCpus"),
        ("scaling.gateway.max_replicas=0", "max_replicas"),
        ("ray.idleTimeoutSeconds=0", "idleTimeoutSeconds"),
        ("workers.gpu.minReplicas=-1", "minReplicas"),
    ],
)
def test_the_schema_bounds_values(value: str, key: str) -> None:
    with pytest.raises(Refused, match=key):
        render("--set", value)
