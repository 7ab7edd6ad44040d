"""What the chart renders is what Trivium takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from serve_app.ledger.prices import PriceTable
from serve_app.settings import Settings, from_args, load
from tests.helm.chart import PROFILES, ROOT, Json, of_profile, one, render, settings_file

_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")


@pytest.fixture(autouse=True)
def keys(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _KEYS:
        monkeypatch.setenv(name, "none")


def settings(profile: str, *more: str) -> Settings:
    return from_args(settings_file(render(*of_profile(profile), *more)))


def plain(settings: Settings) -> Json:
    found: Json = settings.model_dump(mode="json")
    return found


@pytest.mark.parametrize("profile", ["default", *PROFILES])
def test_the_rendered_arguments_are_settings_with_absolute_paths(profile: str) -> None:
    made = settings(profile)
    # Nothing is left to the folder that a process happens to run in.
    assert made == made.resolved(Path("/somewhere/else"))


def test_the_production_profile_is_the_file_of_the_same_name() -> None:
    rendered = plain(settings("production"))
    written = plain(load(ROOT / "configs" / "production.yaml"))
    for paths in (rendered, written):
        del paths["state_dir"], paths["expert"]["lora"]["cache"]
        del paths["ledger"]["prices"], paths["ledger"]["machines"]
    assert rendered == written


@pytest.mark.parametrize("profile", ["default", *PROFILES])
def test_only_the_profile_for_a_trial_is_open(profile: str) -> None:
    assert settings(profile).gateway.open == (profile == "kind")


@pytest.mark.parametrize("profile", ["gpu", "production"])
def test_a_fresh_installation_has_a_first_key_that_its_own_clients_send(profile: str) -> None:
    manifests = render(*of_profile(profile))
    cluster = one(manifests, "RayService")["spec"]["rayClusterConfig"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    asked = one(manifests, "Pod", "trivium-test-roads")["spec"]["containers"][0]["env"]
    let_in = next(e["valueFrom"] for e in head if e["name"] == "TRIVIUM_GATEWAY__FIRST_KEY")
    sent = next(e["valueFrom"] for e in asked if e["name"] == "TRIVIUM_API_KEY")
    # With Redis the head starts without the Secret too, to remove what it kept there.
    assert let_in["secretKeyRef"] | {"optional": True} == sent["secretKeyRef"] | {"optional": True}
    assert sent == {"secretKeyRef": {"name": "trivium", "key": "first-key"}}


def test_the_kind_profile_serves_what_a_laptop_does() -> None:
    laptop = load(ROOT / "configs" / "local.yaml").expert
    there = settings("kind").expert
    assert (there.model, there.lora.enabled) == (laptop.model, laptop.lora.enabled)
    assert there.engine["max_model_len"] == laptop.engine["max_model_len"]


def test_prices_of_the_values_replace_the_images(tmp_path: Path) -> None:
    table = (ROOT / "configs" / "prices.yaml").read_text(encoding="utf-8")
    values = tmp_path / "values.yaml"
    given = {"prices": yaml.safe_load(table)}
    values.write_text(yaml.safe_dump(given, default_flow_style=False), encoding="utf-8")
    manifests = render("-f", str(values))
    PriceTable.load(settings_file(manifests)["ledger"]["prices"]).require("gpt-4.1")
    file = tmp_path / "prices.yaml"
    file.write_text(one(manifests, "ConfigMap", "trivium-config")["data"]["prices.yaml"])
    PriceTable.load(file).require("gpt-4.1")


def test_models_of_the_profiles_have_a_price() -> None:
    table = PriceTable.load(ROOT / "configs" / "prices.yaml")
    for profile in PROFILES:
        table.require(settings(profile).expert.model)


def test_large_numbers_stay_numbers() -> None:
    more = ["--set", "settings.gateway.max_body_bytes=20000000"]
    assert settings("kind", *more).gateway.max_body_bytes == 20_000_000


def test_milvus_in_the_chart_is_the_one_that_is_asked() -> None:
    manifests = render(*of_profile("gpu"))
    assert settings_file(manifests)["retrieval"]["milvus_uri"] == "http://trivium-milvus:19530"
    assert one(manifests, "Service", "trivium-milvus")["spec"]["ports"][0]["port"] == 19530


def test_gpus_are_the_experts_alone() -> None:
    made = settings("production").expert
    cluster = one(render(*of_profile("production")), "RayService")["spec"]["rayClusterConfig"]
    for group in cluster["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        if "nvidia.com/gpu" in limits:
            # No deployment of the others fits a pod without CPUs, and the expert asks for none.
            assert group["rayStartParams"] == {"num-cpus": "0", "num-gpus": "2"}
            assert limits["nvidia.com/gpu"] == "2"
    assert made.scaling.num_cpus == 0
    assert made.engine["tensor_parallel_size"] == 2


def test_a_mig_slice_counts_as_a_gpu() -> None:
    slice_ = "nvidia.com/mig-3g.40gb"
    more = ["--set", f"workers.gpu.gpu.resource={slice_.replace('.', chr(92) + '.')}"]
    cluster = one(render(*of_profile("gpu"), *more), "RayService")["spec"]["rayClusterConfig"]
    group = next(g for g in cluster["workerGroupSpecs"] if g["groupName"] == "gpu")
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits[slice_] == "2"
    assert group["rayStartParams"]["num-gpus"] == "2"


# Which card has FP8 in hardware, and which kernels read an FP8 cache on it without being compiled
# by nvcc first: vLLM's platforms/cuda.py and v1/attention/backends.
CARDS = {"l4": ("fp8", "TRITON_ATTN", 2), "a10g": ("auto", None, 2), "h100": ("fp8", None, 1)}


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("profile", ["gpu", "production"])
def test_a_card_gets_what_it_can_do(profile: str, card: str) -> None:
    cache, attention, gpus = CARDS[card]
    manifests = render(*of_profile(profile), *of_profile(f"gpu-{card}"))
    engine = from_args(settings_file(manifests)).expert.engine
    assert engine["kv_cache_dtype"] == cache
    assert engine.get("attention_backend") == attention
    assert engine["tensor_parallel_size"] == gpus
    cluster = one(manifests, "RayService")["spec"]["rayClusterConfig"]
    group = next(g for g in cluster["workerGroupSpecs"] if g["groupName"] == "gpu")
    assert group["rayStartParams"]["num-gpus"] == f"{gpus}"
    chosen = group["template"]["spec"]["nodeSelector"]["nvidia.com/gpu.product"]
    assert card.upper() in chosen
