"""`configs/gpu.yaml` without a GPU: what it says resolves to what Ray Serve and vLLM take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.expert.deployment import environment, placement
from serve_app.expert.engine import llm_config
from serve_app.ledger.prices import PriceTable
from serve_app.settings import Settings, from_args, load
from tests.helm.chart import of_profile, render, settings_file

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def settings() -> Settings:
    return load(Path("configs/gpu.yaml"))


@pytest.fixture
def base(tmp_path: Path) -> str:
    """The shape of Llama 3.1 8B, without its weights."""
    shape = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "vocab_size": 128256,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(shape))
    return str(tmp_path)


def command_line(arguments: dict[str, Any]) -> list[str]:
    """As `vllm serve` takes them, which knows the values that each may have."""
    line = []
    for name, value in arguments.items():
        flag = ("--no-" if value is False else "--") + name.replace("_", "-")
        said = json.dumps(value) if isinstance(value, dict) else str(value)
        line += [flag] if isinstance(value, bool) else [flag, said]
    return line


def test_settings_are_an_llm_config_of_two_gpus_with_adapters(
    settings: Settings, base: str
) -> None:
    config = llm_config(settings.expert, base, None)
    engine = config.get_engine_config()
    arguments = engine.get_initialization_kwargs()
    assert engine.tensor_parallel_degree == 2
    assert arguments["enable_lora"] is True
    assert (arguments["max_loras"], arguments["max_lora_rank"]) == (8, 32)
    assert arguments["enable_prefix_caching"] is True
    assert engine.placement_bundles == [{"GPU": 1.0}] * 2


def parsed_by_vllm(given: dict[str, Any], base: str) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    return AsyncEngineArgs.from_cli_args(parser.parse_args(["--model", base, *command_line(given)]))


def test_engine_arguments_are_ones_that_vllm_takes(settings: Settings, base: str) -> None:
    given = llm_config(settings.expert, base, None).engine_kwargs
    parsed = parsed_by_vllm(given, base)
    structured = given.pop("structured_outputs_config")
    for name, value in given.items():
        assert getattr(parsed, name) == value
    assert structured.items() <= vars(parsed.structured_outputs_config).items()
    assert parsed.create_model_config().max_model_len == 32768


# Compute capability of each card. What is older than Ada (8.9) is refused an FP8 cache by vLLM.
CARDS = {"l4": (8, 9), "a10g": (8, 6), "h100": (9, 0)}


@pytest.mark.parametrize("card", CARDS)
def test_what_a_card_adds_is_what_vllm_takes_on_it(card: str, base: str) -> None:
    from vllm.platforms.interface import DeviceCapability
    from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend

    rendered = settings_file(render(*of_profile("gpu"), *of_profile(f"gpu-{card}")))
    given = llm_config(from_args(rendered).expert, base, None).engine_kwargs
    parsed = parsed_by_vllm(given, base)
    cache = parsed.kv_cache_dtype
    assert cache == given["kv_cache_dtype"]
    assert (cache == "fp8") == (CARDS[card] >= (8, 9))
    if backend := parsed.attention_backend:
        assert str(getattr(backend, "name", backend)) == "TRITON_ATTN"
        assert TritonAttentionBackend.supports_kv_cache_dtype(cache)
        assert TritonAttentionBackend.supports_compute_capability(DeviceCapability(*CARDS[card]))


def test_nothing_is_left_to_nvcc_unless_the_settings_say_so(settings: Settings) -> None:
    import vllm.envs

    given = environment(settings.expert)
    assert given["VLLM_USE_FLASHINFER_SAMPLER"] == given["VLLM_ALLREDUCE_USE_FLASHINFER"] == "0"
    assert given.keys() <= vllm.envs.environment_variables.keys()
    own = settings.expert.model_copy(update={"environment": {"VLLM_USE_FLASHINFER_SAMPLER": "1"}})
    assert environment(own)["VLLM_USE_FLASHINFER_SAMPLER"] == "1"


@pytest.mark.parametrize("wrong", [{"kv_cache_dtype": "fp7"}, {"tensor_paralel_size": 2}])
def test_mistaken_engine_argument_would_be_found(
    settings: Settings, base: str, wrong: dict[str, Any]
) -> None:
    given = {**llm_config(settings.expert, base, None).engine_kwargs, **wrong}
    with pytest.raises(SystemExit):
        parsed_by_vllm(given, base)


def test_replica_reserves_its_gpus_and_scales_by_ongoing_requests(settings: Settings) -> None:
    options = placement(settings.expert)
    assert options["placement_group_bundles"] == [{"CPU": 4.0, "GPU": 1.0}, {"GPU": 1.0}]
    assert options["placement_group_strategy"] == "STRICT_PACK"
    assert options["ray_actor_options"]["num_cpus"] == 0
    assert "OMP_NUM_THREADS" not in environment(settings.expert)
    scaling = settings.expert.scaling
    assert scaling.min_replicas > 1
    assert scaling.target_ongoing_requests < scaling.max_ongoing_requests
    assert scaling.max_ongoing_requests <= settings.expert.engine["max_num_seqs"]


def test_its_base_has_a_price(settings: Settings) -> None:
    PriceTable.load(settings.ledger.prices).require(settings.expert.model)


def test_base_without_adapters_gives_the_engine_nothing_of_them(base: str) -> None:
    config = llm_config(load(None).expert, base, None)
    assert [name for name in config.engine_kwargs if "lora" in name] == []
