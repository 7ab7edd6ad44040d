"""OpenAI's Chat Completions, or any server that speaks it (`frontier.base_url`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import openai

from serve_app.domain import Delta, Generation, Image, Message, ToolCall, Usage
from serve_app.frontier.providers import counted, failure, finish_reason, headers, translated
from serve_app.settings import UpstreamSettings


def client(settings: UpstreamSettings, silence_s: float) -> openai.AsyncOpenAI:
    """The SDK's, with its own retries off."""
    return openai.AsyncOpenAI(
        api_key=settings.api_key.get_secret_value(),
        base_url=settings.base_url,
        timeout=silence_s,
        max_retries=0,
    )


class OpenAIProvider:
    def __init__(self, settings: UpstreamSettings, silence_s: float) -> None:
        self._model = settings.model
        self._client = client(settings, silence_s)

    async def generate(self, generation: Generation) -> AsyncGenerator[Delta]:
        messages: Any = [_message(each) for each in generation.messages]
        with translated(openai):
            stream = await self._client.chat.completions.create(
                model=self._model,
                messages=messages,
                max_completion_tokens=generation.max_tokens,
                stream=True,
                stream_options={"include_usage": True},
                extra_headers=headers(generation),
                **generation.options,
            )
            finished = False
            async with stream:
                theirs = stream.response.headers.get("x-request-id")
                async for chunk in stream:
                    delta = _delta(chunk)
                    finished = finished or delta.finish_reason is not None
                    yield replace(delta, provider_id=theirs or chunk.id)
            if not finished:
                raise failure(None)


def _message(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.parts:
        turn["content"] = [
            {"type": "image_url", "image_url": {"url": part.url, "detail": part.detail}}
            if isinstance(part, Image)
            else {"type": "text", "text": part}
            for part in message.parts
        ]
    if message.tool_calls:
        turn["content"] = message.content or None
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _piece(call: Any) -> ToolCall:
    called = call.function
    return ToolCall(
        call.index or 0,
        call.id or "",
        (called and called.name) or "",
        (called and called.arguments) or "",
    )


def _delta(chunk: Any) -> Delta:
    choice = chunk.choices[0] if chunk.choices else None
    finished = choice is not None and choice.finish_reason
    usage = None
    if chunk.usage:
        details = chunk.usage.prompt_tokens_details
        written = chunk.usage.completion_tokens_details
        usage = Usage(
            counted(chunk.usage.prompt_tokens),
            counted(chunk.usage.completion_tokens),
            counted(getattr(details, "cached_tokens", None)),
            counted(getattr(written, "reasoning_tokens", None)),
        )
    return Delta(
        text=(choice.delta.content or "") if choice else "",
        finish_reason=finish_reason(choice.finish_reason) if finished and choice else None,
        usage=usage,
        tool_calls=tuple(map(_piece, (choice.delta.tool_calls or ()) if choice else ())),
    )
