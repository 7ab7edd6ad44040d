"""Outside model providers behind one interface: a generation in, deltas out.

Each provider is a module of its own, loaded only when the settings name it. The SDKs' own retries
are off; retrying is the business of the road, not of the wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from serve_app.domain import Delta, FinishReason, Generation
from serve_app.errors import (
    FrontierNotConfigured,
    InvalidRequest,
    Overloaded,
    TriviumError,
    Unavailable,
)
from serve_app.settings import FrontierSettings


class Provider(Protocol):
    """Somebody else's model."""

    def generate(self, generation: Generation) -> AsyncIterator[Delta]:
        """Stream an answer; raises `TriviumError` before or between deltas."""
        ...


def provider(settings: FrontierSettings) -> Provider:
    """The provider that the settings name."""
    match settings.provider:
        case "openai":
            from serve_app.frontier.openai import OpenAIProvider

            return OpenAIProvider(settings)
        case "anthropic":
            from serve_app.frontier.anthropic import AnthropicProvider

            return AnthropicProvider(settings)
        case None:
            return NoProvider()


class NoProvider:
    """No key, no frontier: says so, and lets the graph choose another road."""

    async def generate(self, generation: Generation) -> AsyncIterator[Delta]:
        raise FrontierNotConfigured(
            "no frontier provider is configured; set frontier.provider, frontier.model and its key"
        )
        yield Delta()  # makes this an async generator


def finish_reason(theirs: str | None) -> FinishReason:
    """Why a provider's model stopped, in OpenAI's words."""
    match theirs:
        case "length" | "max_tokens":
            return "length"
        case "content_filter" | "refusal":
            return "content_filter"
        case _:
            return "stop"


def failure(status: int | None) -> TriviumError:
    """Our error for a provider's HTTP status; `None` when there was no answer at all.

    The provider's own text is not passed on: it may name accounts or keys.
    """
    if status is None or status < 400:
        return Unavailable("the frontier provider cannot be reached, or broke off")
    match status:
        case 400 | 413 | 422:
            return InvalidRequest(f"the frontier provider refused the request ({status})")
        case 429:
            return Overloaded("the frontier provider is at its limit", retry_after_s=2.0)
        case _:
            return Unavailable(f"the frontier provider failed ({status})")
