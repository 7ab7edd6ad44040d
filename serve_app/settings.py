"""One settings tree, from a YAML file and the environment.

`TRIVIUM_` variables override the file; `__` descends: `TRIVIUM_EXPERT__MODEL=/models/llama`.
Unknown keys are refused, so a typing error cannot silently fall back to a default.
This is the only module that reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as SourceError

from serve_app.domain import Route
from serve_app.errors import SettingsError

Seconds = Annotated[float, Field(gt=0)]
_CONVERSATION_TOKENS = 1024


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Scaling(_Section):
    """Replicas, queues and resources of one deployment (Ray Serve's own terms)."""

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=8, gt=0)
    max_ongoing_requests: int = Field(default=64, ge=1)
    max_queued_requests: int = Field(default=128, ge=-1)
    num_cpus: float = Field(default=0.1, ge=0)
    num_gpus: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Scaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})"
            )
        return self


class ApiKey(_Section):
    """A client of the gateway. The key itself is never in a file, only its SHA-256 in hex."""

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: str = Field(default="default", pattern=r"^[^\x00-\x1f]{1,64}$")
    scopes: frozenset[Literal["chat", "ingest"]] = frozenset({"chat"})


class GatewaySettings(_Section):
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    request_timeout_s: Seconds = 120.0
    keep_alive_s: Seconds = 10.0
    max_body_bytes: int = Field(default=2_000_000, ge=1024)
    max_concurrent_requests: int = Field(default=64, ge=1)
    api_keys: tuple[ApiKey, ...] = ()
    scaling: Scaling = Scaling(max_ongoing_requests=4096, max_queued_requests=-1, num_cpus=0.2)


class Intent(_Section):
    """A task declared by what people say when they want it.

    Attributes:
        road: Who does it; for the expert, the intent is an adapter's task.
        utterances: At least ten, inline, or the path of a file with one in each line.
    """

    road: Route = Route.EXPERT
    utterances: tuple[str, ...] | Path

    @field_validator("utterances", mode="before")
    @classmethod
    def _inline_or_path(cls, value: Any) -> Any:
        return Path(value) if isinstance(value, str) else value

    @field_validator("utterances")
    @classmethod
    def _enough(cls, value: tuple[str, ...] | Path) -> tuple[str, ...] | Path:
        if not isinstance(value, Path) and len(value) < 10:
            raise ValueError(f"at least 10 utterances are needed, there are {len(value)}")
        return value


class RouterSettings(_Section):
    """The router. Its heads come with Trivium, from a file, or are trained here at set-up.

    Attributes:
        heads: A file that `trivium train router` wrote; `None` takes those that come along.
        examples: Labelled rows (JSONL) to train this installation's own heads on.
        intents: Tasks beside the three roads; they need `examples` of the roads to stand out from.
        policy: YAML; `None` takes the one that comes along.
    """

    heads: Path | None = None
    examples: tuple[Path, ...] = ()
    intents: dict[str, Intent] = Field(default_factory=dict)
    policy: Path | None = None
    max_tokens: int = Field(default=128, ge=8, le=512)
    threads: int = Field(default=1, ge=1)
    max_batch_size: int = Field(default=32, ge=1)
    batch_wait_s: float = Field(default=0.0, ge=0, le=0.02)
    timeout_s: Seconds = 5.0
    scaling: Scaling = Scaling(max_ongoing_requests=256, target_ongoing_requests=64)

    @model_validator(mode="after")
    def _trainable(self) -> RouterSettings:
        if self.heads and (self.examples or self.intents):
            raise ValueError("heads is a finished file: leave examples and intents out, or heads")
        if self.intents and not self.examples:
            raise ValueError(
                "intents need examples of the roads beside them, e.g. configs/demo/routes.jsonl"
            )
        return self

    def resolved(self, root: Path) -> RouterSettings:
        """The same with every relative path made absolute against `root`."""
        intents = {
            name: intent.model_copy(update={"utterances": root / intent.utterances})
            if isinstance(intent.utterances, Path)
            else intent
            for name, intent in self.intents.items()
        }
        return self.model_copy(
            update={
                "heads": self.heads and root / self.heads,
                "examples": tuple(root / path for path in self.examples),
                "intents": intents,
                "policy": self.policy and root / self.policy,
            }
        )


class LoraSettings(_Section):
    """Adapters on the expert's base, by vLLM's multi-LoRA. Off, they cost nothing.

    Attributes:
        max_loras: Most adapters in one batch; each takes memory beside the base.
        max_cpu_loras: Most adapters that a replica keeps loaded; the others are read again.
        max_lora_rank: Highest rank; every adapter takes the memory of one with this.
        poll_s: How often a gateway looks for promotions.
        cache: Where replicas keep the files of adapters: a folder in `state_dir`.
    """

    enabled: bool = False
    max_loras: int = Field(default=4, ge=1)
    max_cpu_loras: int = Field(default=16, ge=1)
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256] = 16
    poll_s: Seconds = 2.0
    cache: Path = Path("adapter-cache")

    @model_validator(mode="after")
    def _ordered(self) -> LoraSettings:
        if self.max_cpu_loras < self.max_loras:
            raise ValueError(
                f"max_cpu_loras ({self.max_cpu_loras}) is below max_loras ({self.max_loras})"
            )
        return self


class ExpertSettings(_Section):
    """The model vLLM serves. `engine` is passed to vLLM as it is (`AsyncEngineArgs`).

    Attributes:
        adapters: Where trained adapters are released: a folder in `state_dir`, or an fsspec URL.
        lora: Whether and how they are served.
        training_workers: Processes that train an adapter together; on GPUs, one each.
    """

    model: str = "smollm2-135m-instruct"
    model_source: str | None = None
    accelerator: Literal["cpu", "gpu"] = "cpu"
    max_output_tokens: int = Field(default=256, ge=1)
    engine: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    adapters: str = "adapters"
    lora: LoraSettings = LoraSettings()
    training_workers: int = Field(default=1, ge=1)

    def room_for_evidence(self) -> int:
        """Tokens of evidence that fit a prompt, beside the answer and the conversation."""
        context = int(self.engine.get("max_model_len", 0))
        return max(0, context - self.max_output_tokens - _CONVERSATION_TOKENS)

    @field_validator("engine")
    @classmethod
    def _typed(cls, engine: dict[str, Any]) -> dict[str, Any]:
        """Values from the environment are text; they mean what they would mean in the file."""
        return {k: yaml.safe_load(v) if isinstance(v, str) else v for k, v in engine.items()}

    scaling: Scaling = Scaling(num_cpus=1.0, max_ongoing_requests=64, max_queued_requests=64)

    @model_validator(mode="after")
    def _one_worker(self) -> ExpertSettings:
        if self.accelerator == "cpu" and self.lora.enabled:
            for name in ("tensor_parallel_size", "pipeline_parallel_size"):
                if int(self.engine.get(name, 1)) > 1:
                    raise ValueError(
                        f"engine.{name} must be 1 where adapters are served on the CPU: "
                        "scale by replicas instead"
                    )
        return self


BUNDLED = "all-MiniLM-L6-v2"


class RetrievalSettings(_Section):
    """The knowledge base.

    Attributes:
        milvus_uri: A file (Milvus Lite) or the address of a server; https:// uses TLS.
        embedding_model: Folder or hub id; the default comes along. Collections keep the model
            they were made with until they are reindexed.
        dense_weight, sparse_weight: Of each ranking in the fusion of a hybrid search.
        min_relevance: Least probability that a chunk answers the question.
        half_life_s: Age at which a volatile question's preference for what is new has halved.
        whole_tokens: A base of at most so many tokens goes into the prompt whole, if the model's
            context has room for it; 0 always retrieves.
        rerank_model: Folder or hub id of a cross-encoder that orders what was found.
    """

    milvus_uri: str = "milvus.db"
    milvus_token: SecretStr = SecretStr("")
    embedding_model: str = BUNDLED
    collection: str = Field(default="default", pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    chunk_tokens: int = Field(default=160, ge=32, le=8192)
    top_k: int = Field(default=4, ge=1, le=50)
    min_relevance: float = Field(default=0.04, ge=0, le=1)
    dense_weight: float = Field(default=1.0, ge=0)
    sparse_weight: float = Field(default=1.0, ge=0)
    half_life_s: float = Field(default=3600.0, gt=0)
    whole_tokens: int = Field(default=100_000, ge=0)
    rerank_model: str | None = None
    timeout_s: Seconds = 10.0
    scaling: Scaling = Scaling(max_ongoing_requests=32)

    @property
    def embedded(self) -> bool:
        """Milvus Lite: a local file that exactly one process may open."""
        return "://" not in self.milvus_uri

    @model_validator(mode="after")
    def _one_owner(self) -> RetrievalSettings:
        if self.embedded and self.scaling.max_replicas > 1:
            raise ValueError(
                "scaling.max_replicas must be 1 with Milvus Lite (its file has one owner); "
                "set milvus_uri to a server, e.g. http://milvus:19530, to scale out"
            )
        return self


class FrontierSettings(_Section):
    """The outside model. Without `provider` the road is not configured, and says so."""

    provider: Literal["openai", "anthropic"] | None = None
    model: str = ""
    base_url: str | None = None
    api_key: SecretStr = SecretStr("")
    timeout_s: Seconds = 60.0
    max_output_tokens: int = Field(default=1024, ge=1)
    scaling: Scaling = Scaling(max_ongoing_requests=256, target_ongoing_requests=64)

    @model_validator(mode="before")
    @classmethod
    def _conventional_key(cls, data: Any) -> Any:
        """Each provider's key under the name that its own SDK reads."""
        if isinstance(data, dict) and data.get("provider") and not data.get("api_key"):
            key = os.environ.get(f"{data['provider']}".upper() + "_API_KEY", "")
            return {**data, "api_key": key}
        return data

    @model_validator(mode="after")
    def _complete(self) -> FrontierSettings:
        if self.provider and not self.model:
            raise ValueError(f"provider is {self.provider!r}, so model must name one of its models")
        if self.provider and not self.api_key.get_secret_value():
            variable = f"{self.provider.upper()}_API_KEY"
            raise ValueError(f"provider is {self.provider!r}: set the environment's {variable}")
        return self


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone; one looks like Europe/Oslo") from error
    return name


TimeZone = Annotated[str, AfterValidator(_zone)]


class OrchestrationSettings(_Section):
    """How the roads work together.

    Attributes:
        fallbacks: Which road answers when another cannot, tried in order, before the first byte.
        grade: Leave out chunks that hardly bear on the question; off, all that was found is used.
        verify: Keep only sentences that a chunk supports.
        time_zone: What "yesterday" means, for tenants without one of their own in `time_zones`.
    """

    fallbacks: dict[Route, tuple[Route, ...]] = {
        Route.EXPERT: (Route.FRONTIER,),
        Route.KNOWLEDGE: (Route.FRONTIER, Route.EXPERT),
        Route.FRONTIER: (Route.EXPERT,),
    }
    grade: bool = True
    verify: bool = True
    time_zone: TimeZone = "UTC"
    time_zones: dict[str, TimeZone] = Field(default_factory=dict)


class LedgerSettings(_Section):
    prices: Path = Path("configs/prices.yaml")
    baseline_model: str = "gpt-4.1"
    baseline_context_tokens: int = Field(default=1200, ge=0)


class TelemetrySettings(_Section):
    """Where spans go, by OTLP over HTTP; follows the standard OTEL_* variables. Unset: off."""

    otlp_traces_endpoint: str | None = None


class Settings(BaseSettings):
    """The whole tree. Build it with `load`, or from plain data with `from_args`."""

    model_config = SettingsConfigDict(
        env_prefix="TRIVIUM_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    state_dir: Path = Path(".trivium")
    gateway: GatewaySettings = GatewaySettings()
    router: RouterSettings = RouterSettings()
    expert: ExpertSettings = ExpertSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    frontier: FrontierSettings = FrontierSettings()
    orchestration: OrchestrationSettings = OrchestrationSettings()
    ledger: LedgerSettings = LedgerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides the file; conventional variables come last."""
        conventional = InitSettingsSource(settings_cls, _conventional())
        return _Environment(settings_cls), init_settings, conventional

    @property
    def models_dir(self) -> Path:
        return self.state_dir / "models"

    def resolved(self, root: Path) -> Settings:
        """The same settings with every relative path made absolute against `root`."""
        router, ledger, retrieval = self.router, self.ledger, self.retrieval
        state = root / self.state_dir
        uri, adapters = retrieval.milvus_uri, self.expert.adapters
        if "://" not in adapters:
            adapters = str(state / adapters)
        lora = self.expert.lora.model_copy(update={"cache": state / self.expert.lora.cache})
        if retrieval.embedded:
            uri = str(state / uri)
        return self.model_copy(
            update={
                "state_dir": state,
                "router": router.resolved(root),
                "expert": self.expert.model_copy(update={"adapters": adapters, "lora": lora}),
                "ledger": ledger.model_copy(update={"prices": root / ledger.prices}),
                "retrieval": retrieval.model_copy(update={"milvus_uri": uri}),
            }
        )

    def to_args(self) -> dict[str, Any]:
        """Plain data for `serve_app.app:build`, as a RayService carries it. Holds no secrets."""
        return self.model_dump(mode="json", exclude=_SECRETS, exclude_defaults=True)


class _Environment(EnvSettingsSource):
    """`TRIVIUM_` variables. Names under `expert.environment` are variables too: they keep case."""

    _VARIABLES = "TRIVIUM_EXPERT__ENVIRONMENT__"

    def __call__(self) -> dict[str, Any]:
        data = super().__call__()
        length = len(self._VARIABLES)
        exact = {k[length:]: v for k, v in os.environ.items() if k.startswith(self._VARIABLES)}
        if exact:
            data["expert"] = {**data.get("expert", {}), "environment": exact}
        return data


_SECRETS: Any = {"frontier": {"api_key"}, "retrieval": {"milvus_token"}}


def _conventional() -> dict[str, Any]:
    """Settings from variables that other tools define."""
    found: dict[str, Any] = {}
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true":
        base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or (
            base and base.rstrip("/") + "/v1/traces"
        )
        if endpoint:
            found["telemetry"] = {"otlp_traces_endpoint": endpoint}
    return found


def load(path: Path | None) -> Settings:
    """Read settings from a YAML file (or defaults) and the environment.

    Raises:
        SettingsError: The file is missing, is not YAML, or a key is unknown or has a value that
            is not allowed; the message names file, line, key and what is allowed.
    """
    if path is None:
        return from_args({})
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path}: cannot be read ({error}); name another with --config"
        ) from None
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise SettingsError(f"{where}: {problem}") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise SettingsError(f"{path}:1: settings must be a mapping of sections, e.g. `gateway:`")
    try:
        return Settings(**data)
    except ValidationError as error:
        raise SettingsError(_explain(error, str(path), text)) from None
    except SourceError as error:
        raise SettingsError(f"environment: {error}") from None


def from_args(args: Mapping[str, Any]) -> Settings:
    """Settings from plain data, as `build(args)` receives them.

    Raises:
        SettingsError: As `load`, without a line number.
    """
    try:
        return Settings(**dict(args))
    except ValidationError as error:
        raise SettingsError(_explain(error, "args", None)) from None
    except SourceError as error:
        raise SettingsError(f"environment: {error}") from None


def _explain(error: ValidationError, source: str, text: str | None) -> str:
    """A line per mistake: place, key, what is wrong and allowed. Values stay out: secrets."""
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        keys = tuple(str(part) for part in item["loc"])
        where = source
        line = _line_of(text, keys) if text else None
        if line:
            where = f"{source}:{line}"
        problem = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            problem = f"unknown key; allowed here: {', '.join(_allowed(keys[:-1]))}"
        lines.append(f"{where}: {'.'.join(keys)}: {problem}")
    return "\n".join(lines)


def _line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """Line (from 1) of the deepest key of the path that the YAML text has."""
    node: yaml.Node | None = yaml.compose(text)
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == key), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _allowed(section: tuple[str, ...]) -> list[str]:
    """Keys that a section may have; `section` is a path like `("gateway", "api_keys", "0")`."""
    model: Any = Settings
    for key in section:
        if key.isdigit():
            model = get_args(model)[0]
        elif key in getattr(model, "model_fields", {}):
            model = model.model_fields[key].annotation
        else:
            return []
    return sorted(getattr(model, "model_fields", {}))
