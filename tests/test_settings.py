from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.settings import Settings, from_args, load

pytestmark = pytest.mark.usefixtures("clean_environment")

SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trivium.yaml"


def refusal(file: Path, text: str) -> str:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(file)
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lora: {max_loras: 8, max_cpu_loras: 4}", "max_cpu_loras (4) is below max_loras (8)"),
        ("lora: {max_lora_rank: 12}", "max_lora_rank"),
        (
            "lora: {enabled: true}\n  engine: {tensor_parallel_size: 2}",
            "engine.tensor_parallel_size must be 1",
        ),
    ],
)
def test_adapters_that_could_not_be_served_are_refused(file: Path, text: str, named: str) -> None:
    assert named in refusal(file, f"expert:\n  {text}\n")


def test_adapters_lie_in_the_state_folder_or_where_a_url_says(tmp_path: Path) -> None:
    here = from_args({"state_dir": "state"}).resolved(tmp_path).expert
    assert here.adapters == str(tmp_path / "state" / "adapters")
    assert here.lora.cache == tmp_path / "state" / "adapter-cache"
    there = from_args({"expert": {"adapters": "s3://bucket/adapters"}}).resolved(tmp_path).expert
    assert there.adapters == "s3://bucket/adapters"


def test_first_key_comes_from_the_environment_and_is_kept_as_a_hash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = SECRET * 2
    monkeypatch.setenv("TRIVIUM_GATEWAY__FIRST_KEY", secret)
    other = {"name": "ci", "sha256": "0" * 64}
    settings = from_args({"gateway": {"api_keys": [other]}})
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert [(key.name, key.sha256) for key in settings.gateway.api_keys] == [
        ("first", digest),
        ("ci", "0" * 64),
    ]
    assert settings.gateway.api_keys[0].scopes == {"chat", "ingest"}
    # A replica that is given these arguments has the variable too: the key is there once.
    args = settings.to_args()
    assert from_args(args) == settings
    assert secret not in f"{args}{settings!r}"


def test_first_key_that_could_be_guessed_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIVIUM_GATEWAY__FIRST_KEY", SECRET)
    with pytest.raises(SettingsError, match="at least 32 characters: `openssl") as refused:
        from_args({})
    assert SECRET not in refused.value.message


def test_missing_file_is_named_with_the_option_to_choose_another(file: Path) -> None:
    with pytest.raises(SettingsError, match="--config") as caught:
        load(file)
    assert str(file) in caught.value.message


def test_file_that_is_not_utf8_is_named(file: Path) -> None:
    file.write_bytes(b"gateway: \xff\xfe")
    with pytest.raises(SettingsError) as caught:
        load(file)
    assert str(file) in caught.value.message


def test_yaml_that_does_not_parse_is_named_with_its_line(file: Path) -> None:
    assert refusal(file, "gateway:\n  port: 1\n  host: [a\n").startswith(f"{file}:4: ")


def test_yaml_with_control_characters_is_refused(file: Path) -> None:
    assert refusal(file, "gateway:\n  host: \x00\n").startswith(str(file))


@pytest.mark.parametrize("text", ["- gateway\n", "just text\n", "42\n"])
def test_file_that_is_not_a_mapping_is_refused(file: Path, text: str) -> None:
    assert "mapping" in refusal(file, text)


@pytest.mark.parametrize("key", ["1", "on", "2026-01-01"])
def test_top_level_key_that_is_no_text_is_refused(file: Path, key: str) -> None:
    assert str(file) in refusal(file, f"{key}: 2\n")


def test_unknown_section_names_line_and_what_is_allowed(file: Path) -> None:
    message = refusal(file, "# comment\ngatway:\n  port: 1\n")
    assert message.startswith(f"{file}:2: gatway: unknown key")
    assert "gateway" in message


def test_unknown_key_names_line_and_what_is_allowed(file: Path) -> None:
    message = refusal(file, "gateway:\n  host: 0.0.0.0\n  prot: 9000\n")
    assert message.startswith(f"{file}:3: gateway.prot: unknown key")
    assert "port" in message


def test_unknown_key_of_an_api_key_names_what_is_allowed(file: Path) -> None:
    message = refusal(file, "gateway:\n  api_keys:\n    - nme: x\n      sha256: y\n")
    assert f"{file}:3: gateway.api_keys.0.nme: unknown key" in message
    line = next(line for line in message.splitlines() if "nme" in line)
    assert "sha256" in line
    assert "tenant" in line


def test_wrong_value_names_line_and_key(file: Path) -> None:
    message = refusal(file, "gateway:\n  port: 99999\n")
    assert message.startswith(f"{file}:2: gateway.port: ")
    assert "65535" in message


def test_every_mistake_is_told_at_once(file: Path) -> None:
    message = refusal(file, "gateway:\n  port: 0\nretrieval:\n  top_k: nine\n")
    assert "gateway.port" in message
    assert "retrieval.top_k" in message


def test_replica_bounds_in_the_wrong_order_are_refused(file: Path) -> None:
    text = "router:\n  scaling: {min_replicas: 3, max_replicas: 2}\n"
    assert "min_replicas (3) is above max_replicas (2)" in refusal(file, text)


def test_empty_file_gives_the_defaults(file: Path) -> None:
    file.write_text("", encoding="utf-8")
    assert load(file) == load(None)


def test_the_files_that_come_along_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "a key")
    for path in Path(__file__).parent.parent.glob("configs/*.yaml"):
        if path.name not in ("prices.yaml", "forecast.yaml"):
            load(path)


def test_environment_overrides_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("gateway:\n  port: 9000\n  host: 0.0.0.0\n", encoding="utf-8")
    monkeypatch.setenv("TRIVIUM_GATEWAY__PORT", "9001")
    settings = load(file)
    assert (settings.gateway.port, settings.gateway.host) == (9001, "0.0.0.0")


def test_what_serve_hands_over_holds_and_the_environment_says_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A process has its environment for life: a change that reaches it must not lose against that.
    monkeypatch.setenv("TRIVIUM_LEDGER__PASSWORD", SECRET)
    monkeypatch.setenv("TRIVIUM_LEDGER__RETENTION_DAYS", "5")
    monkeypatch.setenv("TRIVIUM_ROUTER__POLICY", "policy.yaml")
    made = from_args({"ledger": {"retention_days": 7}})
    assert made.ledger.password.get_secret_value() == SECRET
    assert made.ledger.retention_days == 7
    assert made.router.policy == Path("policy.yaml")
    given = {"value_usd": 1}
    assert from_args({"router": {"policy": given}}).router.policy == given


def test_wrong_value_in_the_environment_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_GATEWAY__PORT", "many")
    with pytest.raises(SettingsError, match=r"gateway\.port"):
        load(None)


def test_section_in_the_environment_that_is_not_json_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIVIUM_GATEWAY", "not json")
    with pytest.raises(SettingsError, match=r"(?i)gateway"):
        load(None)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        (
            "TRIVIUM_FRONTIER__TIMEOUT_S",
            "soon",
            "TRIVIUM_FRONTIER__TIMEOUT_S: frontier.timeout_s: ",
        ),
        (
            "TRIVIUM_FRONTIER__TIMEOUTS",
            "3",
            "TRIVIUM_FRONTIER__TIMEOUTS: frontier.timeouts: unknown",
        ),
        ("TRIVIUM_LEDGER__LIMITS", "[{", "TRIVIUM_LEDGER__LIMITS: must be JSON"),
        (
            "TRIVIUM_LEDGER__LIMITS",
            '[{"of": "x"}]',
            "TRIVIUM_LEDGER__LIMITS: ledger.limits.0.per: ",
        ),
        ("TRIVIUM_LEDGER", '{"limits": [{"of": "x"}]}', "TRIVIUM_LEDGER: ledger.limits.0.of: "),
        ("TRIVIUM_LEDGER", '{"limits": [], "limits": []}', "`limits` is given twice"),
        ("TRIVIUM_EXPERT__ENGINE__SEED", "[1", "expert.engine: seed"),
    ],
)
def test_error_in_a_variable_names_the_variable_and_not_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    message = refusal(file, "frontier: {timeout_s: 30}\nledger: {limits: []}\n")
    assert told in message
    assert f"{file}: " not in message or "seed" in told


def test_error_in_the_file_names_the_file_when_variables_are_set_too(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_FRONTIER__SILENCE_S", "10")
    message = refusal(file, "frontier:\n  timeout_s: soon\n")
    assert message.startswith(f"{file}:2: frontier.timeout_s: ")


def test_engine_arguments_from_the_environment_have_their_types(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIVIUM_EXPERT__ENGINE__MAX_MODEL_LEN", "2048")
    assert load(None).expert.engine == {"max_model_len": 2048}


def test_engine_variables_from_the_environment_keep_their_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIVIUM_EXPERT__ENVIRONMENT__VLLM_CPU_KVCACHE_SPACE", "2")
    assert load(None).expert.environment == {"VLLM_CPU_KVCACHE_SPACE": "2"}


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_frontier_without_key_names_the_variable(file: Path, provider: str) -> None:
    message = refusal(file, f"frontier: {{provider: {provider}, model: some-model}}\n")
    assert f"{provider.upper()}_API_KEY" in message


def test_frontier_without_model_says_so(file: Path) -> None:
    text = f"frontier: {{provider: openai, api_key: {SECRET}}}\n"
    message = refusal(file, text)
    assert "model" in message
    assert SECRET not in message


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_each_provider_gets_its_own_conventional_key(
    file: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-openai")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-anthropic")
    file.write_text(f"frontier: {{provider: {provider}, model: m}}\n", encoding="utf-8")
    assert load(file).frontier.api_key.get_secret_value() == f"key-of-{provider}"


def test_key_of_another_provider_is_not_used(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-openai")
    message = refusal(file, "frontier: {provider: anthropic, model: m}\n")
    assert "ANTHROPIC_API_KEY" in message


def secretive(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TRIVIUM_FRONTIER__API_KEY", SECRET)
    monkeypatch.setenv("TRIVIUM_RETRIEVAL__MILVUS_TOKEN", SECRET)
    return from_args({"frontier": {"provider": "openai", "model": "m"}})


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = secretive(monkeypatch)
    assert settings.frontier.api_key.get_secret_value() == SECRET
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    assert SECRET not in str(settings.to_args())


@pytest.mark.parametrize(
    "text",
    [
        "frontier: {{api_key: [{0}]}}",
        "frontier: {{api_key: {0}, provider: nobody}}",
        "frontier: {0}",
        "retrieval: {{milvus_token: {0}, top_k: 0}}",
        "gateway: {{api_keys: [{{name: me, sha256: {0}}}]}}",
    ],
)
def test_error_texts_hold_no_values(file: Path, text: str) -> None:
    assert SECRET not in refusal(file, text.format(SECRET))


def test_milvus_lite_with_two_replicas_is_refused(file: Path) -> None:
    message = refusal(file, "retrieval:\n  scaling: {max_replicas: 2}\n")
    assert "scaling.max_replicas must be 1" in message


def test_milvus_server_may_have_many_replicas(file: Path) -> None:
    text = "retrieval:\n  milvus_uri: http://milvus:19530\n  scaling: {max_replicas: 2}\n"
    file.write_text(text, encoding="utf-8")
    assert not load(file).retrieval.embedded


@pytest.mark.parametrize(
    ("uri", "ca", "reason"),
    [
        (f"https://root:{SECRET}@milvus:19530", "null", "set milvus_token"),
        ("http://milvus:19530", "ca.pem", "must start with https://"),
        ("milvus.db", "ca.pem", "must start with https://"),
    ],
)
def test_unsafe_way_to_milvus_is_refused(file: Path, uri: str, ca: str, reason: str) -> None:
    message = refusal(file, f"retrieval:\n  milvus_uri: {uri}\n  milvus_ca: {ca}\n")
    assert reason in message
    assert SECRET not in message


def test_arguments_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    settings = from_args(
        {
            "state_dir": "/var/lib/trivium",
            "gateway": {
                "port": 1234,
                "api_keys": [{"name": "a", "sha256": "0" * 64, "scopes": ["chat", "ingest"]}],
            },
            "expert": {"engine": {"max_model_len": 4096}, "scaling": {"num_cpus": 2}},
            "frontier": {"provider": "openai", "model": "gpt-4.1"},
            "orchestration": {"fallbacks": {"expert": [], "knowledge": []}},
        }
    )
    assert from_args(settings.to_args()) == settings
    assert settings.orchestration.fallbacks[Route.KNOWLEDGE] == ()


def test_expert_is_refused_as_a_stand_in_for_knowledge(file: Path) -> None:
    message = refusal(file, "orchestration:\n  fallbacks:\n    knowledge: [frontier, expert]\n")
    assert ":3: orchestration.fallbacks" in message or ":2: orchestration.fallbacks" in message
    assert "leave expert out of fallbacks.knowledge" in message


@pytest.mark.parametrize(("timeout_s", "silence_s"), [(60, 30), (400, 120)])
def test_a_frontier_that_must_answer_soon_may_be_silent_for_less(
    file: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: int, silence_s: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    patient = f"gateway: {{request_timeout_s: {timeout_s}}}\n"
    named = f"frontier: {{provider: openai, model: m, timeout_s: {timeout_s}}}\n"
    file.write_text(patient + named, encoding="utf-8")
    settings = load(file)
    assert settings.frontier.silence_s == silence_s
    assert from_args(settings.to_args()) == settings


def test_frontier_that_is_waited_for_longer_than_a_request_lasts_is_refused(file: Path) -> None:
    text = "gateway: {request_timeout_s: 60}\nfrontier: {timeout_s: 90}\n"
    message = refusal(file, text)
    assert "frontier.timeout_s (90) is above gateway.request_timeout_s (60)" in message
    file.write_text("gateway: {request_timeout_s: 60}\n", encoding="utf-8")
    assert load(file).gateway.request_timeout_s == 60


def test_defaults_round_trip() -> None:
    assert from_args(load(None).to_args()) == load(None)


def test_paths_are_resolved_against_the_root() -> None:
    router = {
        "examples": ["rows.jsonl"],
        "intents": {"bills": {"utterances": "bills.txt"}},
        "policy": "policy.yaml",
    }
    retrieval = {"milvus_uri": "https://milvus:19530", "milvus_ca": "ca.pem"}
    guarded = from_args({"retrieval": retrieval}).resolved(Path("/srv"))
    assert guarded.retrieval.milvus_ca == Path("/srv/ca.pem")
    settings = from_args({"router": router}).resolved(Path("/srv"))
    assert settings.state_dir == Path("/srv/.trivium")
    assert settings.router.examples == (Path("/srv/rows.jsonl"),)
    assert settings.router.intents["bills"].utterances == Path("/srv/bills.txt")
    assert settings.router.policy == Path("/srv/policy.yaml")
    assert settings.retrieval.milvus_uri == "/srv/.trivium/milvus.db"


@pytest.mark.parametrize(
    ("router", "reason"),
    [
        ({"intents": {"bills": {"utterances": ["pay me"] * 9}}}, "at least 10 utterances"),
        ({"intents": {"bills": {"utterances": "bills.txt"}}}, "need examples of the roads"),
        ({"heads": "a.safetensors", "examples": ["rows.jsonl"]}, "finished file"),
        (
            {"examples": ["r"], "intents": {"x": {"road": "mars", "utterances": "f"}}},
            "'expert', 'knowledge' or 'frontier'",
        ),
    ],
)
def test_router_that_cannot_be_trained_is_refused(router: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        from_args({"router": router})


def test_address_of_a_milvus_server_is_left_as_it_is() -> None:
    settings = from_args({"retrieval": {"milvus_uri": "http://milvus:19530"}})
    assert settings.resolved(Path("/srv")).retrieval.milvus_uri == "http://milvus:19530"


def test_parameters_go_with_a_type_of_index_that_is_named(file: Path) -> None:
    said = refusal(file, "retrieval: {vector_index: {type: auto, search: {ef: 64}}}")
    assert "go with a type that is named, not with auto" in said


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("{gold: [a, b], silver: [b]}", "tenant 'b' is in more than one class"),
        ("{Gold: [a]}", "retrieval.tenancy.classes"),
        ("{0gold: [a]}", "retrieval.tenancy.classes"),
        ("{much-too-long-a-name: [a]}", "retrieval.tenancy.classes"),
    ],
)
def test_a_class_of_tenants_has_a_name_and_tenants_of_its_own(
    file: Path, classes: str, said: str
) -> None:
    assert said in refusal(file, f"retrieval: {{tenancy: {{classes: {classes}}}}}")
