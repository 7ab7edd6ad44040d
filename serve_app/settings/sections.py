"""The sections of the settings: what can be set, what is allowed, and what holds by default."""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from serve_app.domain import Route

Seconds = Annotated[float, Field(gt=0)]
NAME = r"^[^\x00-\x1f]{1,64}$"  # of tenants and keys
Name = Annotated[str, Field(pattern=NAME)]
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

    name: Name
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: Name = "default"
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
        training_workers: Processes that train an adapter together; on GPUs, one each.
        lora: Whether and how they are served.
    """

    model: str = "smollm2-135m-instruct"
    model_source: str | None = None
    accelerator: Literal["cpu", "gpu"] = "cpu"
    max_output_tokens: int = Field(default=256, ge=1)
    engine: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    adapters: str = "adapters"
    training_workers: int = Field(default=1, ge=1)
    lora: LoraSettings = LoraSettings()

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
        milvus_token: `user:password` or an API key of the server.
        milvus_ca: Certificates (PEM) of the authority that vouches for the server's own, where it
            is a private one.
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
    milvus_ca: Path | None = None
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

    @field_validator("milvus_uri")
    @classmethod
    def _no_password(cls, value: str) -> str:
        if "@" in value.partition("://")[2].partition("/")[0]:
            raise ValueError("user and password do not belong here; set milvus_token to them")
        return value

    @model_validator(mode="after")
    def _certificates_are_used(self) -> RetrievalSettings:
        if self.milvus_ca and not self.milvus_uri.startswith("https://"):
            raise ValueError("milvus_ca is for TLS: milvus_uri must start with https://")
        return self

    @model_validator(mode="after")
    def _one_owner(self) -> RetrievalSettings:
        if self.embedded and self.scaling.max_replicas > 1:
            raise ValueError(
                "scaling.max_replicas must be 1 with Milvus Lite (its file has one owner); "
                "set milvus_uri to a server, e.g. http://milvus:19530, to scale out"
            )
        return self


class CircuitSettings(_Section):
    """When a provider that keeps failing is left alone.

    Attributes:
        failures: So many in a row.
        rest_s: Then so long, before one request finds out whether it answers again.
    """

    failures: int = Field(default=5, ge=1)
    rest_s: Seconds = 10.0


class MaskSettings(_Section):
    """What is masked before a prompt leaves the house, and restored in the answer.

    Attributes:
        kinds: Of what rules know; empty masks nothing but `patterns`.
        patterns: Regular expressions of your own, by the name their placeholders have.
        phone_region: Country (ISO 3166, `NO`) whose numbers are known without their prefix.
    """

    kinds: frozenset[Literal["email", "phone", "iban", "card", "secret"]] = frozenset(
        {"email", "phone", "iban", "card", "secret"}
    )
    patterns: dict[str, str] = Field(default_factory=dict)
    phone_region: str | None = Field(default=None, pattern=r"^[A-Z]{2}$")

    @field_validator("patterns")
    @classmethod
    def _expressions(cls, value: dict[str, str]) -> dict[str, str]:
        for name, pattern in value.items():
            if not re.fullmatch(r"[A-Z][A-Z0-9]{0,31}", name):
                raise ValueError(f"{name!r}: name it in capital letters and digits, as EMPLOYEE")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name}: {error}") from None
        return value


class UpstreamSettings(_Section):
    """An outside model.

    Attributes:
        provider: The protocol: OpenAI's Chat Completions or Responses, or Anthropic's Messages.
        base_url: Of a server that speaks it: vLLM, Azure, OpenRouter, …
        key_from: Environment variable that holds its key; default: the one its SDK reads.
    """

    provider: Literal["openai", "openai-responses", "anthropic"] | None = None
    model: str = ""
    base_url: str | None = None
    key_from: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    api_key: SecretStr = SecretStr("")

    @model_validator(mode="before")
    @classmethod
    def _conventional_key(cls, data: Any) -> Any:
        """Each provider's key under the name that its own SDK reads."""
        if isinstance(data, dict) and data.get("provider") and not data.get("api_key"):
            return {**data, "api_key": os.environ.get(_variable(data), "")}
        return data

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.provider and not self.model:
            raise ValueError(f"provider is {self.provider!r}, so model must name one of its models")
        if self.provider and not self.api_key.get_secret_value():
            variable = _variable({"provider": self.provider, "key_from": self.key_from})
            raise ValueError(f"provider is {self.provider!r}: set the environment's {variable}")
        return self


def _variable(upstream: dict[str, Any]) -> str:
    company = f"{upstream['provider']}".partition("-")[0]
    return upstream.get("key_from") or f"{company.upper()}_API_KEY"


class FrontierSettings(UpstreamSettings):
    """The outside model. Without `provider` the road is not configured, and says so.

    Attributes:
        fallbacks: Others that answer where it cannot, in their order.
        silence_s: How long the provider may say nothing, at first or between two deltas, before
            it counts as failed.
        retries: Tries after the first, before the first byte and the deadline.
    """

    fallbacks: tuple[UpstreamSettings, ...] = ()
    timeout_s: Seconds = 60.0
    silence_s: Seconds = 30.0
    max_output_tokens: int = Field(default=1024, ge=1)
    retries: int = Field(default=2, ge=0, le=10)
    circuit: CircuitSettings = CircuitSettings()
    mask: MaskSettings = MaskSettings()
    scaling: Scaling = Scaling(max_ongoing_requests=256, target_ongoing_requests=64)

    @property
    def upstreams(self) -> tuple[UpstreamSettings, ...]:
        """All of them, the first one first."""
        return (self, *self.fallbacks)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.fallbacks and not self.provider:
            raise ValueError("fallbacks stand in for a provider: set provider and model first")
        if not all(each.provider for each in self.fallbacks):
            raise ValueError("each of the fallbacks needs a provider")
        if self.provider and self.silence_s >= self.timeout_s:
            raise ValueError(
                f"silence_s ({self.silence_s:g}) must be below timeout_s ({self.timeout_s:g}), "
                "or no silence is ever noticed"
            )
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
        answers: Who answers from evidence: the expert's model, or a rule that quotes it. A quote
            costs no tokens, and beats a model that is too small to be trusted with facts.
        verify: Keep only sentences of the model that a chunk supports; with none left, quote.
        min_quote: Least probability that what is quoted holds the answer.
        without_evidence: What is done when nothing relevant was found, twice: say that the
            knowledge base does not say, or ask the frontier, with whatever there was.
        time_zone: What "yesterday" means, for tenants without one of their own in `time_zones`.
    """

    fallbacks: dict[Route, tuple[Route, ...]] = {
        Route.EXPERT: (Route.FRONTIER,),
        Route.KNOWLEDGE: (Route.FRONTIER, Route.EXPERT),
        Route.FRONTIER: (Route.EXPERT,),
    }
    grade: bool = True
    answers: Literal["model", "quote"] = "model"
    verify: bool = True
    min_quote: float = Field(default=0.25, ge=0, le=1)
    without_evidence: Literal["say so", "frontier"] = "say so"
    time_zone: TimeZone = "UTC"
    time_zones: dict[str, TimeZone] = Field(default_factory=dict)

    def zone(self, tenant: str) -> ZoneInfo:
        """Where a tenant's days begin."""
        return ZoneInfo(self.time_zones.get(tenant, self.time_zone))


class LimitSettings(_Section):
    """At most so much in each minute, day or month (UTC).

    Attributes:
        of: The house, each tenant, or each API key.
        name: Of one tenant or key; without it each one has so much of its own.
        tenant: Of the key that is named.
    """

    of: Literal["house", "tenant", "key"]
    name: Name | None = None
    tenant: Name | None = None
    per: Literal["minute", "day", "month"]
    requests: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    usd: Decimal | None = Field(default=None, ge=0, decimal_places=9, allow_inf_nan=False)

    @model_validator(mode="after")
    def _limits_something(self) -> LimitSettings:
        if self.requests is None and self.tokens is None and self.usd is None:
            raise ValueError("set requests, tokens or usd: this limits nothing")
        if self.of == "house" and self.name:
            raise ValueError("there is one house: leave name out")
        if (self.of == "key" and self.name is not None) != (self.tenant is not None):
            raise ValueError("tenant and name together name a key; without both it is every key")
        return self


class LedgerSettings(_Section):
    """What answers cost, and what they may cost.

    Attributes:
        database: A SQLite file in `state_dir`, or `postgresql://user@host:port/name`, which more
            than one machine needs.
        password: Of the PostgreSQL user.
        at_limit: What is done when a road's cost does not fit: take the next road that does, or
            refuse.
    """

    database: str = "ledger.db"
    password: SecretStr = SecretStr("")
    limits: tuple[LimitSettings, ...] = ()
    at_limit: Literal["degrade", "refuse"] = "degrade"
    prices: Path = Path("configs/prices.yaml")
    baseline_model: str = "gpt-4.1"
    baseline_context_tokens: int = Field(default=1200, ge=0)

    @field_validator("database")
    @classmethod
    def _no_password(cls, value: str) -> str:
        address, _, query = value.partition("?")
        if ":" in address.partition("://")[2].rpartition("@")[0] or "password" in query:
            raise ValueError("the password does not belong here; set ledger.password to it")
        return value

    def resolved(self, root: Path, state: Path) -> LedgerSettings:
        """The same with paths made absolute."""
        inside = "://" not in self.database
        database = str(state / self.database) if inside else self.database
        return self.model_copy(update={"database": database, "prices": root / self.prices})


class TelemetrySettings(_Section):
    """Where spans go, by OTLP over HTTP; follows the standard OTEL_* variables. Unset: off."""

    otlp_traces_endpoint: str | None = None
