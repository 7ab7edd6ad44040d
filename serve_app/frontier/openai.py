"""OpenAI's Chat Completions, or any server that speaks it (`frontier.base_url`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import openai

from serve_app.domain import Delta, Generation, Image, Message, ToolCall, Usage
from serve_app.frontier.providers import (
    claimed,
    failure,
    finish_reason,
    headers,
    patience,
    told,
    translated,
)
from serve_app.settings import UpstreamSettings


def client(settings: UpstreamSettings, silence_s: float) -> openai.AsyncOpenAI:
    """The SDK's, with its own retries off."""
    return openai.AsyncOpenAI(
        api_key=settings.api_key.get_secret_value(),
        base_url=settings.base_url,
        timeout=patience(openai, silence_s),
        max_retries=0,
    )


class OpenAIProvider:
    def __init__(self, settings: UpstreamSettings, silence_s: float) -> None:
        self._model = settings.model
        self._client = client(settings, silence_s)

    async def aclose(self) -> None:
        await self._client.close()

    async def generate(self, generation: Generation) -> AsyncGenerator[Delta]:
        with translated(openai):
            # As plain JSON both ways: to make the SDK's own types of a short request and its ten
            # events takes a quarter of what this process has to do for them (docs/lab-notes.md).
            stream = await self._client.post(
                "/chat/completions",
                body={
                    **generation.options,
                    "model": self._model,
                    "messages": [_message(each) for each in generation.messages],
                    "max_completion_tokens": generation.max_tokens,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                },
                options={"headers": headers(generation), "security": {"bearer_auth": True}},
                cast_to=object,
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )
            finished, known = False, None
            async with stream:
                theirs = stream.response.headers.get("x-request-id")
                async for chunk in stream:
                    if not isinstance(chunk, dict):
                        raise failure(None)
                    delta = _delta(chunk)
                    finished = finished or delta.finish_reason is not None
                    if not known:
                        known = theirs or chunk.get("id")
                        delta = replace(delta, provider_id=known)
                    yield delta
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


def _piece(call: dict[str, Any]) -> ToolCall:
    called = call.get("function") or {}
    return ToolCall(
        call.get("index") or 0,
        _text(call.get("id")),
        _text(called.get("name")),
        _text(called.get("arguments")),
    )


def _delta(chunk: dict[str, Any]) -> Delta:
    """One event of the stream; what a server leaves out, or says is null, is nothing."""
    choices: list[Any] = chunk.get("choices") or [None]
    choice = choices[0] or {}
    said = choice.get("delta") or {}
    reason = choice.get("finish_reason")
    return Delta(
        text=_text(said.get("content")),
        refusal=_text(said.get("refusal")),
        finish_reason=finish_reason(reason) if reason else None,
        usage=_usage(counts) if (counts := chunk.get("usage")) else None,
        tool_calls=tuple(map(_piece, said.get("tool_calls") or ())),
    )


def _text(theirs: Any) -> str:
    """What they wrote. Raises our error for a provider that broke, if it is no text."""
    if theirs is not None and not isinstance(theirs, str):
        raise failure(None)
    return theirs or ""


def _usage(counts: Any) -> Usage | None:
    return claimed(
        told(counts, "prompt_tokens"),
        told(counts, "completion_tokens"),
        told(told(counts, "prompt_tokens_details"), "cached_tokens"),
        told(told(counts, "completion_tokens_details"), "reasoning_tokens"),
    )
