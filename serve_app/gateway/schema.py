"""What comes in over the wire. What is unknown, or no road can honour, is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from serve_app.domain import Document, Message, Route, SearchMode, SearchQuery
from serve_app.errors import InvalidRequest, ModelNotFound, UnsupportedParameter
from serve_app.gateway.conversation import (
    JsonSchema,
    Tool,
    ToolChoice,
    WireMessage,
    check_tools,
    turns,
)
from serve_app.gateway.wire import Body, Instant, MetadataName, Scalar, Whole, Wire
from serve_app.orchestration.run import Question
from serve_app.retrieval import admission
from serve_app.settings import GROUP

MODELS: dict[str, Route | None] = {
    "trivium/auto": None,
    **{f"trivium/{route.value}": route for route in Route},
}

_OWNER, _ADAPTER = "trivium/", "trivium/expert:"

# OpenAI parameters that no road honours yet, with the values that ask for nothing special.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "n": (None, 1),
    "top_logprobs": (None, 0),
    "web_search_options": (None,),
}
# Those that hint at how to serve a request, which is answered rightly without: clients send them to
# every server. They are left out, and said to be where they ask for something.
_HINTS: dict[str, tuple[Any, ...]] = {
    "prediction": (None,),
    "prompt_cache_key": (None,),
    "prompt_cache_retention": (None,),
    "safety_identifier": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "verbosity": (None, "medium"),
}

_SAMPLING = (
    "temperature",
    "top_p",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "reasoning_effort",
    "response_format",
)
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")


def _like(example: dict[str, Any]) -> ConfigDict:
    """The settings of a body's model, with what the documentation shows of it."""
    return ConfigDict(json_schema_extra={"examples": [example]})


class StreamOptions(Wire):
    include_usage: bool = False
    include_obfuscation: bool = False


class JsonSchemaFormat(Wire):
    name: str
    description: str | None = None
    schema_: JsonSchema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Wire):
    """Structured output, enforced by the engine while it decodes."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with type 'json_schema', and only with it")
        return self


def _stop(value: Any) -> Any:
    value = [value] if isinstance(value, str) else value
    if isinstance(value, list) and "" in value:
        raise ValueError("an empty text stops nothing; leave it out")
    return value or None


def spelled(model: str) -> str:
    """A model's name with the slash in it: some SDKs take what stands before one for a provider's
    name, so that `trivium-auto` is `trivium/auto` too."""
    return model.replace("trivium-", _OWNER, 1) if model.startswith("trivium-") else model


class ChatCompletionRequest(Body):
    """`POST /v1/chat/completions`, the subset of OpenAI's that some road honours.

    `collection` is Trivium's own: which knowledge base to search.
    """

    model_config = _like(
        {
            "model": "trivium/auto",
            "messages": [{"role": "user", "content": "What is our return window?"}],
            "max_completion_tokens": 16,
        }
    )

    model: Annotated[str, AfterValidator(spelled)] = "trivium/auto"
    messages: list[WireMessage] = Field(min_length=1, max_length=512)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: Whole | None = Field(default=None, ge=1)
    max_tokens: Whole | None = Field(default=None, ge=1, deprecated="use max_completion_tokens")
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: Annotated[
        list[Annotated[str, StringConstraints(max_length=256)]] | None, BeforeValidator(_stop)
    ] = Field(default=None, max_length=4)
    seed: Whole | None = Field(default=None, ge=-(2**63), lt=2**63)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    user: str | None = Field(default=None, max_length=512)
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    verbosity: Any = None
    collection: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_-]{0,62}$")

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        """Refuse what no road can honour, by name; drop it where it asks for nothing."""
        if not isinstance(data, dict):
            return data
        for name in _NEUTRAL.keys() & data.keys():
            # In Python `True == 1`, but `n: true` is no number.
            value = data[name]
            kind = isinstance(value, bool)
            if not any(isinstance(v, bool) is kind and v == value for v in _NEUTRAL[name]):
                raise UnsupportedParameter(
                    f"{name!r} is not supported by any road; leave it out", param=name
                )
        return {k: v for k, v in data.items() if k not in _NEUTRAL}

    def question(self, default_collection: str) -> Question:
        """The request in domain terms.

        Raises:
            ModelNotFound: No such model; the message lists those that exist.
            InvalidRequest: No turn of a user, or two rival bounds.
            UnsupportedParameter: Tools or pictures, for a road that takes none.
        """
        if all(message.role != "user" for message in self.messages):
            raise InvalidRequest("messages must hold at least one user turn", param="messages")
        said = turns(self.messages)
        if not any(turn.parts or turn.content.strip() for turn in said if turn.role == "user"):
            raise InvalidRequest("the user turns are empty; ask something", param="messages")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise InvalidRequest(
                "give max_completion_tokens or its old name max_tokens, not both",
                param="max_tokens",
            )
        if self.stream_options and not self.stream:
            raise InvalidRequest("stream_options goes with stream: true", param="stream_options")
        question = Question(
            messages=said,
            collection=self.collection or default_collection,
            pinned=resolve(self.model),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            options=self._options(),
            adapted=tuple(n for n, quiet in _HINTS.items() if getattr(self, n) not in quiet),
        )
        if question.only_frontier and question.pinned not in (None, Route.FRONTIER):
            raise UnsupportedParameter(
                f"{self.model} takes neither tools nor pictures; ask trivium/frontier or "
                "trivium/auto",
                param="tools" if "tools" in question.options else "messages",
            )
        return question

    def _options(self) -> dict[str, Any]:
        """What the caller set. Tools that must not be used are none, unless some were before."""
        check_tools(self.tools or (), self.tool_choice if self.tools else None)
        wanted = self.tool_choice != "none" or any(m.tool_calls for m in self.messages)
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise InvalidRequest("tool_choice goes with tools", param="tool_choice")
        names = {*_SAMPLING, *_TOOLS} if self.tools and wanted else set(_SAMPLING)
        return self.model_dump(include=names, exclude_none=True, by_alias=True)


def resolve(model: str) -> Route | None:
    """The road a model name pins; `None` lets the router decide.

    Raises:
        ModelNotFound: No such model; the message lists those that exist.
    """
    if model.startswith(_ADAPTER):
        return Route.EXPERT
    if model not in MODELS:
        raise ModelNotFound(
            f"there is no model {model!r}; there are: {', '.join(MODELS)}",
            param="model",
        )
    return MODELS[model]


def adapter(model: str) -> tuple[str, int | None] | None:
    """Name and pinned version of the adapter that `trivium/expert:<name>[@<version>]` names.

    Raises:
        ModelNotFound: What stands behind the @ is no version.
    """
    if not model.startswith(_ADAPTER):
        return None
    name, at, version = model.removeprefix(_ADAPTER).partition("@")
    if at and not (version.isascii() and version.isdigit() and len(version) < 10):
        raise ModelNotFound(f"{model!r}: a version is a number, as in name@3", param="model")
    return name, int(version) if at else None


class RouteRequest(Body):
    """`POST /v1/route`: a query, or a conversation.

    `collection` is where an answer would be looked up.
    """

    model_config = _like({"query": "What is our return window?"})

    query: str | None = Field(default=None, max_length=1_000_000)
    messages: list[WireMessage] | None = Field(default=None, min_length=1, max_length=512)
    collection: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_-]{0,62}$")

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The conversation to decide on; its last user turn is not empty."""
        if (self.query is None) == (self.messages is None):
            raise InvalidRequest("give either query or messages", param="query")
        if self.query is not None:
            messages: tuple[Message, ...] = (Message("user", self.query),)
        else:
            messages = turns(self.messages or [])
        said = [m.content for m in messages if m.role == "user"]
        if not said or not said[-1].strip():
            asked = "query" if self.messages is None else "messages"
            raise InvalidRequest(f"{asked}: nothing is asked", param=asked)
        return messages


def _id(document_id: str) -> str:
    if problem := admission.id_problem(document_id):
        raise ValueError(problem)
    return document_id


Allow = list[Annotated[str, Field(pattern=rf"^{GROUP}$")]]


class WireDocument(Wire):
    id: Annotated[str, AfterValidator(_id)]
    title: str = ""
    text: str
    metadata: dict[MetadataName, Scalar | None] = Field(default_factory=dict)
    source: str = Field(default="", max_length=2048)
    url: str = Field(default="", max_length=2048)
    allow: Allow = Field(default_factory=list, max_length=admission.MOST_GROUPS)

    def document(self) -> Document:
        metadata: Mapping[str, Any] = {k: v for k, v in self.metadata.items() if v is not None}
        title = self.title or self.id
        allow = tuple(dict.fromkeys(self.allow))
        return Document(self.id, title, self.text, metadata, self.source, self.url, allow)


class IngestRequest(Body):
    """`PUT /v1/collections/{name}/documents`."""

    model_config = _like(
        {
            "documents": [
                {
                    "id": "returns",
                    "title": "Returns",
                    "text": "Goods may be returned within 30 days.",
                    "metadata": {"as_of": "2026-01-31"},
                }
            ]
        }
    )

    documents: list[WireDocument] = Field(min_length=1, max_length=256)

    @model_validator(mode="after")
    def _each_once(self) -> IngestRequest:
        """The order of a batch's documents says nothing, so neither of two is the right one."""
        first: dict[str, int] = {}
        for i, each in enumerate(self.documents):
            if (j := first.setdefault(each.id, i)) != i:
                place = f"documents[{i}].id"
                raise InvalidRequest(
                    f"{place}: {each.id!r} is the id of documents[{j}] too; send one of them",
                    param=place,
                )
        return self


class IngestJobRequest(Body):
    """`POST /v1/collections/{name}/ingest`."""

    model_config = _like({"urls": ["https://example.com/handbook.pdf"], "source": "handbook"})

    urls: list[Annotated[str, StringConstraints(min_length=1, max_length=2048)]] = Field(
        min_length=1, max_length=10_000
    )
    source: str = Field(default="", max_length=2048)
    allow: Allow = Field(default_factory=list, max_length=admission.MOST_GROUPS)


class SearchRequest(Body):
    """`POST /v1/collections/{name}/search`."""

    model_config = _like({"query": "return window", "k": 3})

    query: str = Field(min_length=1, max_length=10_000)
    k: Whole = Field(default=5, ge=1, le=50)
    mode: SearchMode = "hybrid"
    metadata: dict[MetadataName, Scalar] = Field(default_factory=dict, max_length=16)
    since: Instant | None = None
    until: Instant | None = None
    recent: bool = False
    rerank: bool = True
    diversity: float = Field(default=0.0, ge=0, le=1)

    def search(self) -> SearchQuery:
        """As the retriever takes it."""
        return SearchQuery(
            self.query,
            self.k,
            self.mode,
            self.metadata,
            since=self.since.timestamp() if self.since else None,
            until=self.until.timestamp() if self.until else None,
            recent=self.recent,
            rerank=self.rerank,
            diversity=self.diversity,
        )
