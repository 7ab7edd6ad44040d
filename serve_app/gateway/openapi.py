"""What comes back, as the OpenAPI document says it. Nothing is validated or filtered by these."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

Responses = dict[int | str, dict[str, Any]]
Object = dict[str, Any]


class Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """Every failure, as OpenAI's API has it. `param` is the field at fault, where one is."""

    error: Error


class Function(BaseModel):
    name: str
    arguments: str


class Call(BaseModel):
    id: str
    type: Literal["function"]
    function: Function


class AssistantMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[Call] = Field(default_factory=list)
    annotations: list[Object] = Field(default_factory=list, description="`url_citation`s")


class Choice(BaseModel):
    index: int
    message: AssistantMessage
    finish_reason: Literal["stop", "length", "content_filter", "tool_calls"]
    logprobs: None


class TokenUsage(BaseModel):
    """OpenAI's usage, with `cost` and `cost_details` in dollars as OpenRouter has them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Object
    cost: float
    cost_details: Object


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: TokenUsage


class RouteTerm(BaseModel):
    success: float
    worth_usd: float
    cost_usd: float
    value_usd: float


class RouteDecision(BaseModel):
    object: Literal["route.decision"]
    route: str
    scores: dict[str, float]
    terms: dict[str, RouteTerm]
    versions: dict[str, str]
    volatility: float
    complexity: float
    coverage: float | None
    kinds: dict[str, float]
    confidence: float
    stage: str
    reason: str
    latency_ms: float


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Ingested(BaseModel):
    object: Literal["ingest.report"]
    collection: str
    documents: int
    chunks: int


class IngestJob(BaseModel):
    object: Literal["ingest.job"]
    id: str
    collection: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    source: str
    allow: list[str]
    created_at: int
    started_at: int | None
    ended_at: int | None
    urls: dict[str, int]
    documents: int
    chunks: int
    removed: int
    error: str | None
    failed: list[Object]
    left_out: list[Object]


class IngestJobs(BaseModel):
    object: Literal["list"]
    data: list[IngestJob]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DocumentEntry(BaseModel):
    id: str


class Documents(BaseModel):
    object: Literal["list"]
    data: list[DocumentEntry]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DocumentChunk(BaseModel):
    id: str
    heading: str
    text: str


class StoredDocument(BaseModel):
    object: Literal["document"]
    id: str
    title: str
    as_of: str | None
    text: str | None
    metadata: dict[str, Any] | None
    source: str | None
    url: str | None
    chunks: list[DocumentChunk]


class DeletedDocument(BaseModel):
    object: Literal["document"]
    id: str
    deleted: bool
    chunks: int


class DeletedCollection(BaseModel):
    object: Literal["collection"]
    id: str
    deleted: bool
    documents: int


class Hit(DocumentChunk):
    document_id: str
    title: str
    as_of: str | None
    score: float
    relevance: float
    url: str


class Hits(BaseModel):
    object: Literal["list"]
    data: list[Hit]


class Judged(BaseModel):
    object: Literal["feedback"]
    id: str
    good: bool


class Usage(BaseModel):
    object: Literal["usage"]
    tenant: str
    data: list[Object]
    limits: list[Object]


def ok(model: type[BaseModel], described: str) -> Responses:
    """What an endpoint answers when all is well."""
    return {200: {"model": model, "description": described}}


CHAT: Responses = {
    200: {
        "model": ChatCompletion,
        "description": "The answer: whole, or with `stream` as server-sent events.",
        "content": {"text/event-stream": {}},
    }
}

ERRORS: Responses = {
    status: {"model": ErrorEnvelope, "description": described}
    for status, described in {
        400: "The request is at fault; `param` names the field.",
        401: "No API key, or none that is known.",
        403: "The key, or a policy, does not allow it.",
        404: "There is no such thing.",
        405: "The method is not possible here.",
        413: "The body is too large.",
        422: "A document cannot be taken.",
        429: "Too much at once, or a limit is reached; see `retry-after`.",
        500: "Something broke on our side.",
        503: "It cannot be done now; see `retry-after`.",
    }.items()
}
