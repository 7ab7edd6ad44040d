"""The words everybody shares. Plain frozen data: it crosses process boundaries as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
FormatOutcome = Literal["kept", "repaired", "broken", "cut"]


class Route(StrEnum):
    """The three roads."""

    EXPERT = "expert"
    KNOWLEDGE = "knowledge"
    FRONTIER = "frontier"


@dataclass(frozen=True, slots=True)
class Image:
    """A picture beside a text.

    Attributes:
        url: `data:image/…;base64,…`, or `https://…`, which becomes data before it leaves the house.
        detail: How closely it is to be looked at, in OpenAI's words.
        place: Where the caller gave its address, for messages: `messages[0].content[1]…`.
    """

    url: str
    detail: str = "auto"
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What a model wants called. In a stream its arguments come in pieces.

    Attributes:
        index: Which one of an answer's calls.
        id: By which the result names it; in a stream the first piece alone has it, and the name.
        arguments: JSON, as the model wrote it.
    """

    index: int
    id: str
    name: str
    arguments: str

    def __add__(self, more: ToolCall) -> ToolCall:
        """The call with its next piece."""
        return ToolCall(
            self.index,
            self.id or more.id,
            self.name or more.name,
            self.arguments + more.arguments,
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A turn.

    Attributes:
        content: Its text.
        parts: Texts and pictures in order, where there are pictures; else empty.
        tool_calls: What the assistant wanted called.
        tool_call_id: Which call a tool's turn is the result of.
    """

    role: Role
    content: str
    parts: tuple[str | Image, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def plain(self) -> bool:
        """Whether it is text and nothing else."""
        return not (self.parts or self.tool_calls or self.role == "tool")


WARM_UP = "warm-up"  # who asks before the house is ready, by the name of the key


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What travels with a request through every hop.

    Attributes:
        request_id: The `x-request-id` of the response.
        deadline: Unix time in seconds after which nobody waits for the answer any more.
        tenant: Whose data may be read; always from the API key, never from the body.
        api_key: Name of the key.
        groups: Those of the key: documents that are for some groups alone are read by these.
        trace: W3C trace context headers (`traceparent`, `tracestate`); empty when tracing is off.
    """

    request_id: str
    deadline: float
    tenant: str = "default"
    api_key: str = "anonymous"
    groups: tuple[str, ...] = ()
    trace: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_warm_up(self) -> bool:
        """Whether the house asks itself, before it is ready."""
        return self.api_key == WARM_UP


@dataclass(frozen=True, slots=True)
class Term:
    """What a road was held to be worth for one query.

    Attributes:
        success: Probability that its answer is right.
        worth_usd: What a right answer is worth here.
        cost_usd: What an answer costs.
    """

    success: float
    worth_usd: float
    cost_usd: float

    def __reduce__(self) -> tuple[Any, ...]:
        return Term, (self.success, self.worth_usd, self.cost_usd)

    @property
    def value_usd(self) -> float:
        """What the router makes as large as it can."""
        return self.success * self.worth_usd - self.cost_usd


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a query goes, and why.

    Attributes:
        terms: What each road was held to be worth; of those that no pin forbids the best is
            `route`. Empty where nothing was weighed.
        versions: Of what decided, by name: `heads`, `policy`, `outcomes`, `coverage` and `sketch`.
        scores: Probability that the query is the expert's work, a question, or the frontier's
            work; they sum to 1.
        volatility: Probability that the true answer changes with time or live data.
        complexity: Probability that a small model fails where a frontier model succeeds.
        coverage: Probability that the tenant's knowledge base speaks of it; `None`: nobody could
            tell.
        kinds: Probability of each kind that the outcomes of roads are known for; they sum to 1.
        confidence: Probability that the answer of `route` is right.
        fit: For each declared intent, the probability that this is its task.
        in_scope: Probability that the query belongs to any declared intent.
        read: Share of the query's letters in scripts that the router's encoder can read.
        volatile: The policy holds the answer to need fresh data.
        stage: The number of the stage that decided, `pinned` (the caller named the road), or
            `fallback` (nobody could decide).
        barred: Roads that a pin of the policy forbids; none of them may stand in either.
        intended: Names of the pins whose intents some turn of the user has; `None`: nobody looked.
        tokens: Of the conversation, about.
        latency_ms: Time inside the router replica, queueing for the batch included.
        usage: What stage 2 took of the expert's model; `None` where it was not asked.
    """

    route: Route
    scores: Mapping[Route, float]
    volatility: float
    complexity: float
    confidence: float
    stage: str
    reason: str
    coverage: float | None = None
    kinds: Mapping[str, float] = field(default_factory=dict)
    fit: Mapping[str, float] = field(default_factory=dict)
    in_scope: float = 1.0
    read: float = 1.0
    volatile: bool = False
    barred: tuple[Route, ...] = ()
    terms: Mapping[Route, Term] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    intended: tuple[str, ...] | None = None
    tokens: int = 0
    latency_ms: float = 0.0
    usage: Usage | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # As for `Delta`: each decision goes from one process to another.
        return Decision, tuple([getattr(self, name) for name in self.__match_args__])

    @property
    def looks_up(self) -> bool:
        """Whether evidence may help, whoever answers."""
        return self.volatile or (self.coverage or 0.0) >= 0.5

    @property
    def version(self) -> str:
        """Of all that decided, in one line."""
        return ", ".join(f"{name}={version}" for name, version in self.versions.items())

    def record(self) -> dict[str, Any]:
        """As plain data, with every term of the value that was made as large as can be."""
        terms = {
            road: {**asdict(term), "value_usd": term.value_usd} for road, term in self.terms.items()
        }
        return {**asdict(self), "terms": terms}


EVERY_GROUP = "*"  # of a key that reads all documents of its tenant


@dataclass(frozen=True, slots=True)
class Document:
    """One unit of ingest, as it comes over the wire or out of a file.

    Attributes:
        source: What it was found by, when files were brought in; a later run with the same one
            removes what is gone. Empty where nobody looks for it again.
        url: Of the file that it was read from; likewise.
        allow: Groups that may read it; whoever may read others may, where there are none.
    """

    id: str
    title: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    url: str = ""
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document as retrieval returns it.

    Attributes:
        id: `<document id>#<ordinal>`.
        heading: Heading path inside the document, outermost first, joined by ` › `.
        as_of: ISO 8601 UTC time at which the text was true, when the document says so.
        score: Rank score of the search that found it; comparable within that search only.
        relevance: Cosine of query and chunk, -1 to 1; comparable between searches.
    """

    id: str
    document_id: str
    title: str
    heading: str
    text: str
    as_of: str | None
    score: float = 0.0
    relevance: float = 0.0


SearchMode = Literal["dense", "sparse", "hybrid"]


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What to look for in a collection.

    Attributes:
        k: Most chunks to return.
        mode: Embeddings, BM25, or both, fused.
        metadata: Values that fields of a document's metadata must have.
        since: Only documents whose time is at or after this (Unix seconds).
        until: Only documents whose time is before this.
        recent: Prefer documents of late.
        rerank: Let the cross-encoder order what was found, where there is one.
        diversity: From 0 (as found) to 1 (as unlike each other as can be).
    """

    text: str
    k: int
    mode: SearchMode = "hybrid"
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    since: float | None = None
    until: float | None = None
    recent: bool = False
    rerank: bool = True
    diversity: float = 0.0


@dataclass(frozen=True, slots=True)
class Citation:
    """A span of the answer (`start`, `end`: character offsets) and the chunk that supports it."""

    chunk: Chunk
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one model call.

    Attributes:
        cached_tokens: Of the prompt's, those that the model had read before.
        reasoning_tokens: Of the completion's, those that it kept to itself.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A piece of what a model says instead of an answer, when it declines to give one."""

    text: str


BYTES_A_TOKEN = 4  # of English, roughly


def estimated_tokens(texts: Iterable[str]) -> int:
    """About how many tokens texts have, by whatever tokenizer."""
    return sum(len(text.encode()) for text in texts) // BYTES_A_TOKEN


@dataclass(frozen=True, slots=True)
class Release:
    """One version of an adapter. Its text is how the engine and the wire name it."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> Release:
        name, _, version = text.partition("@")
        return cls(name, int(version))


def wants_json(options: Mapping[str, Any]) -> bool:
    """Whether an answer must be JSON, by the options that it is asked with."""
    form: Mapping[str, Any] = options.get("response_format") or {}
    return bool(form.get("type", "text") != "text")


@dataclass(frozen=True, slots=True)
class Generation:
    """One request to a language model.

    Attributes:
        adapter: Through which the expert answers; `None` is the base alone.
        options: Sampling parameters under their OpenAI names, only those the caller set
            (`temperature`, `top_p`, `seed`, `stop`, `response_format`, …).
        call_id: By which the ledger knows the call; outside providers are told it too.
        among: Which of several outside models may answer: `others` are those after the first.
        intended: As `Decision.intended`. Nothing goes out against a pin on intents of which nobody
            knows whether it holds.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    options: Mapping[str, Any] = field(default_factory=dict)
    adapter: Release | None = None
    call_id: str = ""
    among: Literal["all", "first", "others"] = "all"
    intended: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A try of an outside model that broke off, and may be billed all the same.

    Attributes:
        model: Which was asked.
        again: Whether another try follows it.
    """

    model: str = ""
    again: bool = True


@dataclass(frozen=True, slots=True)
class Delta:
    """A step of a model's answer. The last one of a stream carries `finish_reason` and `usage`.

    Attributes:
        model: Which one of several says it; `None` where there is one alone, or as before.
        provider_id: By which its provider knows the request; one step of each try tells it.
        tool_calls: Pieces of calls.
        lost: Tries before the one that says it.
        refusal: A piece of what it says instead of an answer.
        adapted: Parameters of the caller's that this model takes otherwise, or not at all.
        logprobs: The log-probability of each of its tokens, where they were asked for.
    """

    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    model: str | None = None
    provider_id: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    lost: tuple[Lost, ...] = ()
    refusal: str = ""
    adapted: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # What dataclasses do to be pickled takes longer, and answers are sent in many of these.
        return Delta, tuple([getattr(self, name) for name in self.__match_args__])

    @property
    def said(self) -> str:
        """Everything in it that the model wrote."""
        said = self.text + self.refusal
        for call in self.tool_calls:
            said += call.name + call.arguments
        return said

    def having(self, **values: Any) -> Delta:
        """The same with these values: itself, where it has them already, as most steps do."""
        for name, value in values.items():
            if getattr(self, name) != value:
                return replace(self, **values)
        return self

    def __add__(self, more: Delta) -> Delta:
        """Both as one step; where each knows something, the later one does better."""
        calls = list(self.tool_calls)
        for call in more.tool_calls:
            if calls and calls[-1].index == call.index:
                calls[-1] += call
            else:
                calls.append(call)
        return Delta(
            self.text + more.text,
            more.finish_reason or self.finish_reason,
            more.usage or self.usage,
            more.model or self.model,
            more.provider_id or self.provider_id,
            tuple(calls),
            self.lost + more.lost,
            self.refusal + more.refusal,
            tuple(dict.fromkeys((*self.adapted, *more.adapted))),
        )


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A finished (or cut off) model call, as the ledger prices it.

    Attributes:
        model: Key into the price table.
        purpose: Which step of the graph asked (`answer`, `rewrite`, …).
        adapter: Through which the model answered; it costs what its base costs.
    """

    model: str
    purpose: str
    usage: Usage
    adapter: Release | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars of one answer.

    Attributes:
        by_purpose: The same total, split by step of the graph.
        baseline: What a RAG-only stack would have paid for the same answer; an estimate.
        all_frontier: What a frontier model alone would have taken for it; likewise.
    """

    total: float
    by_purpose: Mapping[str, float]
    baseline: float
    all_frontier: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run of the graph produced.

    Attributes:
        refusal: What was said instead of an answer.
        declined: Whether a model would not answer; that we cannot find out is no such case.
        adapted: Parameters of the caller's that the answering model took otherwise.
    """

    text: str
    decision: Decision
    finish_reason: FinishReason
    usage: Usage
    calls: tuple[ModelCall, ...]
    citations: tuple[Citation, ...] = ()
    degraded: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    declined: bool = False
    adapted: tuple[str, ...] = ()
