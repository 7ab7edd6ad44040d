"""What the chart tells Ray Serve, and what a change of a value does to running replicas.

The table in docs/install.md is held to Ray's own rules, and KubeRay's.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app import app as graph
from serve_app import serve_config
from serve_app.expert.placement import PrefixAffinity
from serve_app.ledger.prices import PriceTable
from serve_app.router.placement import Lanes
from serve_app.router.policy import DEFAULT
from serve_app.settings import from_args
from tests.helm.chart import (
    PROFILES,
    ROOT,
    Json,
    applications,
    of_profile,
    one,
    render,
    settings_file,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.serve import Application
    from ray.serve._private.config import DeploymentConfig
    from ray.serve._private.deploy_utils import get_app_code_version
    from ray.serve._private.version import DeploymentVersion
    from ray.serve.schema import ServeApplicationSchema

PROFILE = of_profile("production")
TRIVIUM = {"Gateway", "Router", "Retriever", "Frontier"}
SHA = "a" * 64


@pytest.fixture(autouse=True)
def keys(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "planted-secret")


def meaning(application: Json) -> Json:
    """An application with its settings read, so that it is the same however it is written."""
    deployments = copy.deepcopy(application["deployments"])
    for each in deployments:
        if "user_config" in each:
            each["user_config"] = from_args(each["user_config"])
    return {
        **application,
        "args": from_args(application["args"]),
        "deployments": {each["name"]: each for each in deployments},
    }


@pytest.mark.parametrize("profile", ["default", *PROFILES])
@pytest.mark.parametrize("more", [False, True])
def test_the_chart_tells_serve_what_trivium_up_would(
    profile: str, more: bool, tmp_path: Path
) -> None:
    values = tmp_path / "values.yaml"
    prices = yaml.safe_load((ROOT / "configs" / "prices.yaml").read_text(encoding="utf-8"))
    policy = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    heads = {"source": "s3://bucket/heads.safetensors", "sha256": SHA}
    given = {"prices": prices, "policy": policy, "heads": heads} if more else {}
    values.write_text(yaml.safe_dump(given), encoding="utf-8")
    manifests = render(*of_profile(profile), "-f", str(values))
    rendered = applications(manifests)
    made = serve_config.applications(from_args(settings_file(manifests)))
    assert [meaning(each) for each in rendered] == [meaning(each) for each in made]
    for told in (rendered, made):
        assert "planted-secret" not in json.dumps(told)
        for each in told:
            ServeApplicationSchema.model_validate(each)
    if more:
        (gateway,) = (d for d in rendered[1]["deployments"] if d["name"] == "Gateway")
        PriceTable.load(gateway["user_config"]["ledger"]["prices"]).require("gpt-4.1")


@pytest.mark.parametrize("profile", ["default", *PROFILES])
def test_the_applications_are_built_of_what_the_chart_renders(profile: str) -> None:
    expert, trivium = applications(render(*of_profile(profile)))
    (server,) = graph.expert(expert["args"])._bound_deployment.init_args
    ours = server._bound_deployment
    assert [ours.name] == [each["name"] for each in expert["deployments"]]
    assert (
        ours._deployment_config.request_router_config.get_request_router_class() is PrefixAffinity
    )
    bundles = ours._replica_config.placement_group_bundles
    if expert["args"]["expert"]["accelerator"] == "gpu":
        # One for each GPU, and no CPU in any: GPU pods offer none.
        assert bundles == [{"CPU": 0, "GPU": 1}, {"GPU": 1}]
    else:
        assert bundles == [{"CPU": 1}]
    gateway = graph.trivium(trivium["args"])._bound_deployment
    bound = [each for each in gateway.init_args if isinstance(each, Application)]
    others = {each._bound_deployment.name: each._bound_deployment for each in bound}
    assert {"Gateway", *others} == {each["name"] for each in trivium["deployments"]} == TRIVIUM
    routing = others["Router"]._deployment_config.request_router_config
    assert routing.get_request_router_class() is Lanes


VECTORS: Json = {"vector_index": {"type": "HNSW"}}
TENANCY: Json = {"tenancy": {"level": "collection"}}
# Of each name in the table: values that change it, over the production profile.
CHANGES: dict[str, Json] = {
    "settings.gateway": {"settings": {"gateway": {"cors_origins": ["https://a.example"]}}},
    "settings.ledger": {"settings": {"ledger": {"limits": []}}},
    "settings.orchestration": {"settings": {"orchestration": {"without_evidence": "frontier"}}},
    "settings.frontier": {"settings": {"frontier": {"model": "gpt-4.1-mini", "retries": 0}}},
    "settings.router.timeout_s": {"settings": {"router": {"timeout_s": 2}}},
    "settings.retrieval.top_k": {"settings": {"retrieval": {"top_k": 9}}},
    "settings.retrieval.half_life_s": {"settings": {"retrieval": {"half_life_s": 60}}},
    "settings.expert.max_output_tokens": {"settings": {"expert": {"max_output_tokens": 9}}},
    "prices": {"prices": {"metered": {}, "compute": {}}},
    "policy": {"policy": {"value_usd": 1}},
    "heads": {"heads": {"source": "https://example.com/heads", "sha256": SHA}},
    "min_replicas": {"scaling": {"router": {"min_replicas": 4}}},
    "max_replicas": {"scaling": {"expert": {"max_replicas": 7}}},
    "target_ongoing_requests": {"scaling": {"gateway": {"target_ongoing_requests": 9}}},
    "upscale_delay_s": {"scaling": {"router": {"upscale_delay_s": 9}}},
    "downscale_delay_s": {"scaling": {"expert": {"downscale_delay_s": 9}}},
    "max_ongoing_requests": {"scaling": {"gateway": {"max_ongoing_requests": 99}}},
    "max_queued_requests": {"scaling": {"expert": {"max_queued_requests": 9}}},
    "max_surge_percent": {"scaling": {"expert": {"max_surge_percent": 50}}},
    "scaling.router.num_cpus": {"scaling": {"router": {"num_cpus": 2}}},
    "settings.expert.model": {"settings": {"expert": {"model": "other"}}},
    "settings.expert.engine": {"settings": {"expert": {"engine": {"max_num_seqs": 64}}}},
    "settings.expert.environment": {"settings": {"expert": {"environment": {"A": "b"}}}},
    "settings.expert.lora": {"settings": {"expert": {"lora": {"max_loras": 4}}}},
    "settings.expert.adapters": {"settings": {"expert": {"adapters": "s3://other/adapters"}}},
    "milvus.uri": {"milvus": {"uri": "http://other:19530"}},
    "ledger.database": {"ledger": {"database": "postgresql://a@b/c"}},
    "settings.retrieval.vector_index": {"settings": {"retrieval": VECTORS}},
    "settings.retrieval.tenancy": {"settings": {"retrieval": TENANCY}},
    "settings.retrieval.embedding_model": {"settings": {"retrieval": {"embedding_model": "x"}}},
    "settings.retrieval.rerank_model": {"settings": {"retrieval": {"rerank_model": "x"}}},
    "settings.router.threads": {"settings": {"router": {"threads": 2}}},
    "settings.router.examples": {"settings": {"router": {"examples": ["/data/rows.jsonl"]}}},
    "tracing": {"tracing": {"collector": {"enabled": False}, "endpoint": "http://a:4318"}},
    "image.tag": {"image": {"tag": "2"}},
    "settings.gateway.request_timeout_s": {"settings": {"gateway": {"request_timeout_s": 200}}},
    "ray.env": {"ray": {"env": {"A": "b"}}},
    "secrets.env": {"secrets": {"env": {"A": "b"}}},
    "secrets.revision": {"secrets": {"revision": "2"}},
    "pods": {"pods": {"labels": {"a": "b"}}},
    "head.resources": {"head": {"resources": {"limits": {"cpu": "9"}}}},
    "workers.*.minReplicas": {"workers": {"gpu": {"minReplicas": 3}}},
    "workers.*.maxReplicas": {"workers": {"gpu": {"maxReplicas": 9}}},
}


def table() -> list[tuple[list[str], str]]:
    """The rows of the table: names of values, and what happens in bold."""
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    section = text.partition("\n## Upgrade\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| ")][1:]
    return [
        (re.findall(r"`([^`]+)`", names), re.findall(r"\*\*([^*]+)\*\*", happens)[0])
        for names, happens in rows
    ]


ROWS = [(name, happens) for names, happens in table() for name in names]


def test_the_table_names_what_is_tested() -> None:
    assert [name for name, _ in ROWS] == list(CHANGES)


@pytest.mark.parametrize(("name", "happens"), ROWS)
def test_a_change_does_what_the_table_says(name: str, happens: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(CHANGES[name]), encoding="utf-8")
    before, after = render(*PROFILE), render(*PROFILE, "-f", str(values))
    assert applications(before) != applications(after) or cluster(before) != cluster(after)
    assert outcome(before, after) == happens


def outcome(before: tuple[Json, ...], after: tuple[Json, ...]) -> str:
    """What KubeRay and Ray Serve make of a change, in the words of the table."""
    old, new = cluster(before), cluster(after)
    if without_sizes(old) != without_sizes(new):
        return "a second cluster"
    if old != new:
        return "the autoscaler follows"
    rolled = {
        name
        for then, now in zip(applications(before), applications(after), strict=True)
        for name in restarted(then, now)
    }
    words = {
        frozenset[str](): "nothing restarts",
        frozenset({"Router"}): "that deployment rolls",
        frozenset({"Expert"}): "the expert rolls",
        frozenset(TRIVIUM): "all but the expert roll",
        frozenset({"Expert", *TRIVIUM}): "everything rolls",
    }
    return words[frozenset(rolled)]


def cluster(manifests: tuple[Json, ...]) -> Json:
    found: Json = one(manifests, "RayService")["spec"]["rayClusterConfig"]
    return found


def without_sizes(spec: Json) -> Json:
    """What KubeRay hashes to see whether another cluster is wanted (rayservice_controller.go)."""
    spec = copy.deepcopy(spec)
    for group in spec["workerGroupSpecs"]:
        for size in ("minReplicas", "maxReplicas"):
            del group[size]
    return spec


def restarted(before: Json, after: Json) -> set[str]:
    """Deployments whose replicas Serve replaces."""
    old, new = versions(before), versions(after)
    return {name for name in old if old[name].requires_actor_restart(new[name])}


def versions(application: Json) -> dict[str, Any]:
    code = get_app_code_version(ServeApplicationSchema.model_validate(application))
    return {each["name"]: version(code, each) for each in application["deployments"]}


def version(code: str, options: Json) -> Any:
    known = {name: options[name] for name in DeploymentConfig.model_fields if name in options}
    config = DeploymentConfig.from_default(**known)
    return DeploymentVersion(code, config, options.get("ray_actor_options"))
