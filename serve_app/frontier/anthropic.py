"""Anthropic's Messages, or any server that speaks it (`frontier.base_url`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar

import anthropic

from serve_app.domain import Delta, Generation, Usage
from serve_app.errors import UnsupportedParameter
from serve_app.frontier.providers import counted, failure, finish_reason, headers, translated
from serve_app.settings import UpstreamSettings


class AnthropicProvider:
    _NAMES: ClassVar[Mapping[str, str]] = {
        "temperature": "temperature",
        "top_p": "top_p",
        "stop": "stop_sequences",
    }

    def __init__(self, settings: UpstreamSettings, silence_s: float) -> None:
        self._model = settings.model
        self._client = anthropic.AsyncAnthropic(
            api_key=settings.api_key.get_secret_value(),
            base_url=settings.base_url,
            timeout=silence_s,
            max_retries=0,
        )

    async def generate(self, generation: Generation) -> AsyncGenerator[Delta]:
        request = self._request(generation)
        with translated(anthropic):
            async with self._client.messages.stream(**request) as stream:
                async for event in stream:
                    if event.type == "text":
                        yield Delta(text=event.text)
                message = await stream.get_final_message()
                theirs = stream.response.headers.get("request-id")
            if message.stop_reason is None:
                raise failure(None)
        cached = counted(message.usage.cache_read_input_tokens)
        written = counted(message.usage.cache_creation_input_tokens)
        fresh = counted(message.usage.input_tokens) + written
        yield Delta(
            finish_reason=finish_reason(message.stop_reason),
            usage=Usage(fresh + cached, counted(message.usage.output_tokens), cached),
            provider_id=theirs or message.id,
        )

    def _request(self, generation: Generation) -> dict[str, Any]:
        for name in generation.options:
            if name not in self._NAMES:
                raise UnsupportedParameter(
                    f"the frontier model does not support {name!r}; leave it out", param=name
                )
        system = [m.content for m in generation.messages if m.role in ("system", "developer")]
        turns = [m for m in generation.messages if m.role in ("user", "assistant")]
        request: dict[str, Any] = {
            "extra_headers": headers(generation),
            "model": self._model,
            "max_tokens": generation.max_tokens,
            "messages": [{"role": m.role, "content": m.content} for m in turns],
        }
        if system:
            request["system"] = "\n\n".join(system)
        options = {self._NAMES[name]: value for name, value in generation.options.items()}
        if options:
            # In the body as it is: newer models take fewer of them than the SDK can know.
            request["extra_body"] = options
        return request
