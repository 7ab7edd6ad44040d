"""What the steps pass to each other."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypedDict

from langgraph.runtime import Runtime

from serve_app.domain import (
    Chunk,
    Citation,
    Decision,
    FinishReason,
    Route,
    SearchQuery,
    ToolCall,
)
from serve_app.errors import FrontierNotConfigured, TriviumError
from serve_app.orchestration.drafting import Drafted
from serve_app.orchestration.run import Adapter, Question, Run
from serve_app.settings import Filler


class State(TypedDict, total=False):
    """What the steps pass to each other.

    Attributes:
        road: The one being tried now.
        queries: What was searched for, each by itself.
        found: What the last search that found anything found, before it was graded.
        readers: Who may answer from the evidence, in order.
        read: Ids of the chunks that one of them has answered from in vain.
        drafted: An answer from the evidence whose sentences have been looked at.
        missing: What a reader said that the evidence lacks.
        escalated: There is no evidence, and the frontier is asked instead.
        doubt: The mean log-probability of an answer that the expert doubted; it is not asked twice.
    """

    question: Question
    decision: Decision
    road: Route
    tried: tuple[Route, ...]
    query: SearchQuery
    queries: tuple[SearchQuery, ...]
    rewrites: int
    found: list[Chunk]
    chunks: list[Chunk]
    whole: bool
    readers: tuple[Filler, ...]
    read: frozenset[str]
    draft: str
    drafted: Drafted
    missing: str
    text: str
    refusal: str
    declined: bool
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    citations: tuple[Citation, ...]
    escalated: bool
    doubt: float
    adapter: Adapter | None
    held: str
    violations: list[str]
    error: TriviumError | None
    first_error: TriviumError


Node = Callable[[State, Runtime[Run]], Coroutine[Any, Any, State]]


def known(run: Run, state: State) -> Decision:
    """The decision, with the pins that a call has met since it was made."""
    return run.decision or state["decision"]


def reason(road: str, error: TriviumError) -> str:
    """A token for the `x-trivium-degraded` header."""
    if isinstance(error, FrontierNotConfigured):
        return error.code
    return f"{road}-{error.code.replace('_', '-')}"
