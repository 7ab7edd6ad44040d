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
from serve_app.orchestration.run import Adapter, Question, Run


class State(TypedDict, total=False):
    """What the steps pass to each other.

    Attributes:
        road: The one being tried now.
        found: What the last search that found anything found, before it was graded.
        escalated: There is no evidence, and the frontier is asked instead.
        doubt: The mean log-probability of an answer that the expert doubted; it is not asked twice.
    """

    question: Question
    decision: Decision
    road: Route
    tried: tuple[Route, ...]
    query: SearchQuery
    rewrites: int
    found: list[Chunk]
    chunks: list[Chunk]
    whole: bool
    draft: str
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


def reason(road: str, error: TriviumError) -> str:
    """A token for the `x-trivium-degraded` header."""
    if isinstance(error, FrontierNotConfigured):
        return error.code
    return f"{road}-{error.code.replace('_', '-')}"
