"""The sections of the settings: what can be set, what is allowed, and what holds by default."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from pydantic import (
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from serve_app.domain import Route
from serve_app.errors import InvalidRequest, SettingsError
from serve_app.plain_data import yaml_text
from serve_app.settings.base import Scaling, Seconds, Section

_CONVERSATION_TOKENS = 1024


def _placed(root: Path, place: str) -> str:
    """A path made absolute against `root`; an address as it is."""
    return place if "://" in place else str(root / place)


class Intent(Section):
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


class RouterSettings(Section):
    """The router. Its heads come with Trivium, from a file, or are trained here at set-up.

    Attributes:
        heads: A file that `trivium train router` wrote, or an fsspec URL of one; `None` takes those
            that come along.
        heads_sha256: Of that file, in hex. Another file under the same name is a change by it.
        examples: Labelled rows (JSONL) to train this installation's own heads on.
        intents: Tasks beside the three roads; they need `examples` of the roads to stand out from.
        policy: A YAML file, or what it would hold; `None` takes the one that comes along.
        outcomes: What is known of how well each road answers, as `trivium calibrate router` writes
            it: a YAML file, or what it would hold; `None` takes the one that comes along.
        sketch_bytes: Memory of a replica for what tenants' knowledge bases speak of.
    """

    heads: str | None = None
    heads_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    examples: tuple[Path, ...] = ()
    intents: dict[str, Intent] = Field(default_factory=dict)
    policy: dict[str, Any] | Path | None = None
    outcomes: dict[str, Any] | Path | None = None
    sketch_bytes: int = Field(default=256 << 20, ge=1 << 20)
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
        if self.heads_sha256 and not self.heads:
            raise ValueError("heads_sha256 is of a file: name it in heads")
        if self.intents and not self.examples:
            raise ValueError(
                "intents need examples of the roads beside them, e.g. configs/demo/routes.jsonl"
            )
        return self

    def with_heads(self, path: Path) -> RouterSettings:
        """The same with the heads of a file."""
        update: dict[str, Any] = {
            "heads": str(path),
            "heads_sha256": None,
            "examples": (),
            "intents": {},
        }
        return self.model_copy(update=update)

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
                "heads": self.heads and _placed(root, self.heads),
                "examples": tuple(root / path for path in self.examples),
                "intents": intents,
                "policy": root / self.policy if isinstance(self.policy, Path) else self.policy,
                "outcomes": root / self.outcomes
                if isinstance(self.outcomes, Path)
                else self.outcomes,
            }
        )


class LoraSettings(Section):
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


class TrainingSettings(Section):
    """How adapters are trained; a base of 8B on one GPU of 24 GB wants both.

    Attributes:
        checkpointing: Compute activations again in the backward pass instead of keeping them.
        four_bit: Hold the base in 4 bits (needs a GPU).
    """

    checkpointing: bool = False
    four_bit: bool = False


class ExpertSettings(Section):
    """The model vLLM serves. `engine` is passed to vLLM as it is (`AsyncEngineArgs`).

    Attributes:
        max_output_tokens: Of an answer for which the caller sets no bound. A caller's own may be as
            large as `engine.max_model_len`; the answer ends where the context does.
        adapters: Where trained adapters are released: a folder in `state_dir`, or an fsspec URL.
        training: Memory against time, for a base that is large for its GPU.
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
    training: TrainingSettings = TrainingSettings()
    training_workers: int = Field(default=1, ge=1)
    lora: LoraSettings = LoraSettings()

    @property
    def most_output_tokens(self) -> int:
        """Most tokens that a caller may ask for: what the context is said to hold."""
        return max(self.max_output_tokens, int(self.engine.get("max_model_len") or 0))

    def room_for_evidence(self) -> int:
        """Tokens of evidence that fit a prompt, beside the answer and the conversation."""
        context = int(self.engine.get("max_model_len", 0))
        return max(0, context - self.max_output_tokens - _CONVERSATION_TOKENS)

    @field_validator("engine")
    @classmethod
    def _typed(cls, engine: dict[str, Any]) -> dict[str, Any]:
        """Values from the environment are text; they mean what they would mean in the file."""
        try:
            return {k: yaml_text(v, k) if isinstance(v, str) else v for k, v in engine.items()}
        except SettingsError as error:
            raise ValueError(str(error)) from None

    # One machine seldom has room for a second engine.
    scaling: Scaling = Scaling(
        num_cpus=1.0, max_ongoing_requests=64, max_queued_requests=64, max_surge_percent=0
    )

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


class VectorIndex(Section):
    """How a Milvus server finds vectors, in the server's own words.

    A collection has what held when its index was made; `trivium reindex` makes another.

    Attributes:
        type: `AUTOINDEX` leaves it to the server; `auto` chooses by the number of rows, when an
            index is made. `HNSW` is fast and keeps all vectors in memory; `HNSW_SQ` (2.5 and later)
            and `IVF_SQ8` keep a byte for each number instead of four; `DISKANN` keeps most on a
            disk, which has to be fast.
        build, search: Parameters: `{M: 16, efConstruction: 200}`, `{ef: 64}`.
    """

    type: Literal[
        "auto",
        "AUTOINDEX",
        "FLAT",
        "HNSW",
        "HNSW_SQ",
        "HNSW_PQ",
        "IVF_FLAT",
        "IVF_SQ8",
        "SCANN",
        "DISKANN",
    ] = "AUTOINDEX"
    build: dict[str, int | float | str] = Field(default_factory=dict)
    search: dict[str, int | float | str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _of_a_type(self) -> VectorIndex:
        if self.type == "auto" and (self.build or self.search):
            raise ValueError("build and search go with a type that is named, not with auto")
        return self


_OF_TENANTS = "@"  # in no name that a caller may write
_LONGEST_NAME = 63


class Tenancy(Section):
    """Which Milvus collections hold the documents of which tenants.

    Whatever is chosen, a search is filtered by its tenant.

    Attributes:
        level: Of tenants that no class names, as Milvus's documentation calls it. `partition_key`:
            they share collections. `collection`: each has its own.
        classes: Tenants by the name of a class: those of a class share collections of their own.
    """

    level: Literal["partition_key", "collection"] = "partition_key"
    classes: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,12}$")], tuple[str, ...]] = (
        Field(default_factory=dict)
    )

    @field_validator("classes")
    @classmethod
    def _one_class(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        named = Counter(tenant for tenants in value.values() for tenant in set(tenants))
        if twice := [tenant for tenant, times in named.items() if times > 1]:
            raise ValueError(f"tenant {twice[0]!r} is in more than one class")
        return value

    def place(self, collection: str, tenant: str) -> str:
        """The name under which a tenant's part of a collection is registered: `docs@gold` of a
        class, `docs@0` and a digest of a tenant by itself.

        Raises:
            InvalidRequest: The collection's name is too long for that.
        """
        own = next((name for name, tenants in self.classes.items() if tenant in tenants), "")
        if not own and self.level == "partition_key":
            return collection
        own = own or "0" + hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        place = f"{collection}{_OF_TENANTS}{own}"
        if len(place) > _LONGEST_NAME:
            most = _LONGEST_NAME - len(own) - 1
            raise InvalidRequest(
                f"the name of a collection has at most {most} characters here", param="collection"
            )
        return place

    @staticmethod
    def collection(place: str) -> str:
        """The collection that a place is a part of."""
        return place.partition(_OF_TENANTS)[0]

    def belongs(self, place: str, tenant: str) -> bool:
        """Whether that is where a tenant's documents are looked for."""
        return self.place(self.collection(place), tenant) == place


class EmbeddingSettings(Section):
    """How the embedding model is run.

    Prompts and dimension are part of what a collection knows its model by: a change holds for new
    collections, and for those that are there after `trivium reindex`.

    Attributes:
        query_prompt, passage_prompt: What is put before each query, or passage, as a model was
            trained to read them: `query: ` and `passage: ` for E5. Unset: what its own files say.
        dimension: Numbers that are kept of a vector, of models that bear it (Matryoshka). Unset:
            all.
        batch_size: Texts that are embedded at once.
    """

    query_prompt: str | None = None
    passage_prompt: str | None = None
    dimension: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)


class RetrievalSettings(Section):
    """The knowledge base.

    Attributes:
        milvus_uri: A file (Milvus Lite) or the address of a server; https:// uses TLS.
        milvus_token: `user:password` or an API key of the server.
        milvus_ca: Certificates (PEM) of the authority that vouches for the server's own, where it
            is a private one.
        registry: Where the documents are registered: a SQLite file in `state_dir`, or
            `postgresql://user@host:port/name`, which more than one machine needs. Without it, in
            the ledger's database if that is PostgreSQL, else in a file named after the Milvus.
        registry_password: Of the PostgreSQL user; without it, the ledger's.
        embedding_model: Folder or hub id; the default comes along. Collections keep the model
            they were made with until they are reindexed.
        embedding: How it is run.
        dense_weight, sparse_weight: Of each ranking in the fusion of a hybrid search.
        min_relevance: Least probability that a chunk answers the question.
        half_life_s: Age at which a volatile question's preference for what is new has halved.
        whole_tokens: A base of at most so many tokens goes into the prompt whole, if the model's
            context has room for it; 0 always retrieves.
        rerank_model: Folder or hub id of a cross-encoder that orders what was found.
        vector_index: How the server finds vectors, in indexes that are made from now on.
        tenancy: Which Milvus collections hold the documents of which tenants.
        keep_replaced_s: How long an index that another has replaced is kept for
            `trivium reindex --rollback`; then it is dropped.
        max_collections: That a tenant may make over HTTP.
    """

    milvus_uri: str = "milvus.db"
    milvus_token: SecretStr = SecretStr("")
    milvus_ca: Path | None = None
    registry: str = ""
    registry_password: SecretStr = SecretStr("")
    embedding_model: str = BUNDLED
    embedding: EmbeddingSettings = EmbeddingSettings()
    collection: str = Field(default="default", pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    chunk_tokens: int = Field(default=160, ge=32, le=8192)
    top_k: int = Field(default=4, ge=1, le=50)
    min_relevance: float = Field(default=0.04, ge=0, le=1)
    dense_weight: float = Field(default=1.0, ge=0)
    sparse_weight: float = Field(default=1.0, ge=0)
    half_life_s: float = Field(default=3600.0, gt=0)
    whole_tokens: int = Field(default=100_000, ge=0)
    rerank_model: str | None = None
    max_collections: int = Field(default=100, ge=1)
    vector_index: VectorIndex = VectorIndex()
    tenancy: Tenancy = Tenancy()
    keep_replaced_s: float = Field(default=7 * 86400.0, ge=0)
    timeout_s: Seconds = 10.0
    scaling: Scaling = Scaling(max_ongoing_requests=32)

    @property
    def embedded(self) -> bool:
        """Milvus Lite: a local file that exactly one process may open."""
        return "://" not in self.milvus_uri

    @property
    def embedding_name(self) -> str:
        """What new collections know their embedding model by."""
        run = self.embedding
        told = {
            "dimension": run.dimension,
            "passage_prompt": run.passage_prompt,
            "query_prompt": run.query_prompt,
        }
        told = {name: value for name, value in told.items() if value is not None}
        return f"{self.embedding_model}?{urlencode(told)}" if told else self.embedding_model

    @property
    def registry_address(self) -> str:
        """Of the registry, where the ledger's database is not its place: one for each Milvus."""
        if self.registry:
            return self.registry
        if self.embedded:
            return str(Path(self.milvus_uri).with_suffix(".registry.db"))
        server = re.sub(r"[^a-z0-9.]+", "-", self.milvus_uri.partition("://")[2].lower())
        return f"{server.strip('-')}.registry.db"

    def resolved(self, root: Path, state: Path, ledger: str) -> RetrievalSettings:
        """The same with paths made absolute.

        Args:
            ledger: Where the ledger's database is.
        """
        shared = not self.registry and "://" in ledger
        return self.model_copy(
            update={
                "milvus_uri": _placed(state, self.milvus_uri),
                "milvus_ca": self.milvus_ca and root / self.milvus_ca,
                "registry": ledger if shared else _placed(state, self.registry_address),
            }
        )

    @field_validator("registry")
    @classmethod
    def _no_password_of_the_registry(cls, value: str) -> str:
        address, _, query = value.partition("?")
        if ":" in address.partition("://")[2].rpartition("@")[0] or "password" in query:
            raise ValueError("the password does not belong here; set registry_password to it")
        return value

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


class TelemetrySettings(Section):
    """Where spans go, by OTLP over HTTP; follows the standard OTEL_* variables. Unset: off."""

    otlp_traces_endpoint: str | None = None
