"""Outside model providers behind one interface: a generation in, deltas out.

The SDKs' own retries are off; retrying is the business of the road, not of the wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Protocol

import anthropic
import openai

from serve_app.domain import Delta, FinishReason, Generation, Usage
from serve_app.errors import (
    FrontierNotConfigured,
    InvalidRequest,
    Overloaded,
    TriviumError,
    Unavailable,
    UnsupportedParameter,
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
            return OpenAIProvider(settings)
        case "anthropic":
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


class OpenAIProvider:
    """OpenAI's Chat Completions, or any server that speaks it (`base_url`)."""

    def __init__(self, settings: FrontierSettings) -> None:
        self._model = settings.model
        self._client = openai.AsyncOpenAI(
            api_key=settings.api_key.get_secret_value(),
            base_url=settings.base_url,
            timeout=settings.timeout_s,
            max_retries=0,
        )

    async def generate(self, generation: Generation) -> AsyncIterator[Delta]:
        messages: Any = [{"role": m.role, "content": m.content} for m in generation.messages]
        try:
            stream = await self._client.chat.completions.create(
                model=self._model,
                messages=messages,
                max_completion_tokens=generation.max_tokens,
                stream=True,
                stream_options={"include_usage": True},
                **generation.options,
            )
            async with stream:
                async for chunk in stream:
                    yield _openai_delta(chunk)
        except (openai.APIError, anthropic.APIError) as error:
            raise _translated(error) from error


def _openai_delta(chunk: Any) -> Delta:
    usage = chunk.usage
    choice = chunk.choices[0] if chunk.choices else None
    details = usage.prompt_tokens_details if usage else None
    return Delta(
        text=(choice.delta.content or "") if choice else "",
        finish_reason=_FINISH.get(choice.finish_reason, "stop")
        if choice and choice.finish_reason
        else None,
        usage=Usage(
            usage.prompt_tokens,
            usage.completion_tokens,
            (details.cached_tokens or 0) if details else 0,
        )
        if usage
        else None,
    )


class AnthropicProvider:
    """Anthropic's Messages."""

    _SUPPORTED: ClassVar[Mapping[str, str]] = {
        "temperature": "temperature",
        "top_p": "top_p",
        "stop": "stop_sequences",
    }

    def __init__(self, settings: FrontierSettings) -> None:
        self._model = settings.model
        self._client = anthropic.AsyncAnthropic(
            api_key=settings.api_key.get_secret_value(),
            base_url=settings.base_url,
            timeout=settings.timeout_s,
            max_retries=0,
        )

    async def generate(self, generation: Generation) -> AsyncIterator[Delta]:
        request = self._request(generation)
        try:
            async with self._client.messages.stream(**request) as stream:
                async for event in stream:
                    if event.type == "text":
                        yield Delta(text=event.text)
                message = await stream.get_final_message()
        except (openai.APIError, anthropic.APIError) as error:
            raise _translated(error) from error
        cached = message.usage.cache_read_input_tokens or 0
        fresh = message.usage.input_tokens + (message.usage.cache_creation_input_tokens or 0)
        yield Delta(
            finish_reason=_FINISH.get(message.stop_reason or "", "stop"),
            usage=Usage(fresh + cached, message.usage.output_tokens, cached),
        )

    def _request(self, generation: Generation) -> dict[str, Any]:
        for name in generation.options:
            if name not in self._SUPPORTED:
                raise UnsupportedParameter(
                    f"the frontier model does not support {name!r}; leave it out",
                    param=name,
                )
        system = [m.content for m in generation.messages if m.role in ("system", "developer")]
        turns = [m for m in generation.messages if m.role in ("user", "assistant")]
        request: dict[str, Any] = {
            "model": self._model,
            "max_tokens": generation.max_tokens,
            "messages": [{"role": m.role, "content": m.content} for m in turns],
        }
        if system:
            request["system"] = "\n\n".join(system)
        for name, value in generation.options.items():
            if name == "stop" and isinstance(value, str):
                value = [value]
            request[self._SUPPORTED[name]] = value
        return request


_FINISH: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}


def _translated(error: openai.APIError | anthropic.APIError) -> TriviumError:
    """Our error for a provider's. Its text is not passed on: it may name accounts or keys."""
    status = getattr(error, "status_code", None)
    translated: TriviumError
    if status in (400, 404, 413, 422):
        translated = InvalidRequest(f"the frontier provider refused the request ({status})")
    elif status == 429:
        translated = Overloaded("the frontier provider is at its limit", retry_after_s=2.0)
    elif status is not None:
        translated = Unavailable(f"the frontier provider failed ({status})")
    else:
        translated = Unavailable("the frontier provider cannot be reached")
    return translated
