"""OpenAI's Responses, which its reasoning models are made for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import openai

from serve_app.domain import Delta, Generation, Image, Message, ToolCall
from serve_app.frontier.openai import client
from serve_app.frontier.providers import claimed, failure, finish_reason, headers, told, translated
from serve_app.settings import UpstreamSettings


class ResponsesProvider:
    """Nothing is stored at the provider."""

    def __init__(self, settings: UpstreamSettings, silence_s: float) -> None:
        self._model = settings.model
        self._client = client(settings, silence_s)

    async def aclose(self) -> None:
        await self._client.close()

    async def generate(self, generation: Generation) -> AsyncGenerator[Delta]:
        request = self._request(generation)
        with translated(openai):
            stream = await self._client.responses.create(**request)
            ended = False
            calls: dict[int, int] = {}  # which one, by its place in the output
            async with stream:
                theirs = stream.response.headers.get("x-request-id")
                async for event in stream:
                    match event.type:
                        case "response.output_text.delta":
                            yield Delta(event.delta)
                        case "response.refusal.delta":
                            yield Delta(refusal=event.delta)
                        case "response.output_item.added" if event.item.type == "function_call":
                            index = calls.setdefault(event.output_index, len(calls))
                            begun = ToolCall(index, event.item.call_id, event.item.name, "")
                            yield Delta(tool_calls=(begun,))
                        case "response.function_call_arguments.delta":
                            index = calls[event.output_index]
                            yield Delta(tool_calls=(ToolCall(index, "", "", event.delta),))
                        case "response.completed" | "response.incomplete":
                            ended = True
                            yield _last(event.response, theirs, bool(calls))
                        case "response.failed" | "error":
                            raise failure(None)
            if not ended:
                raise failure(None)

    def _request(self, generation: Generation) -> dict[str, Any]:
        options = dict(generation.options)
        form = options.pop("response_format", None)
        if effort := options.pop("reasoning_effort", None):
            options["reasoning"] = {"effort": effort}
        if tools := options.pop("tools", None):
            options["tools"] = [_tool(each["function"]) for each in tools]
        if isinstance(choice := options.get("tool_choice"), dict):
            options["tool_choice"] = {"type": "function", **choice["function"]}
        return {
            "model": self._model,
            "input": [item for each in generation.messages for item in _items(each)],
            "max_output_tokens": generation.max_tokens,
            "stream": True,
            "store": False,
            "extra_headers": headers(generation),
            **options,
            **({"text": {"format": _format(form)}} if form else {}),
        }


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """Here nothing may be left out, and what is, is strict; in Chat Completions it is not."""
    usual = {"parameters": {"type": "object", "properties": {}}, "strict": False}
    return {"type": "function", **usual, **function}


def _items(message: Message) -> list[dict[str, Any]]:
    """A turn as the items that Responses makes of it: calls and their results are their own."""
    if message.role == "tool":
        result = {"call_id": message.tool_call_id, "output": message.content}
        return [{"type": "function_call_output", **result}]
    content: Any = message.content
    if message.parts:
        content = [
            {"type": "input_image", "image_url": part.url, "detail": part.detail}
            if isinstance(part, Image)
            else {"type": "input_text", "text": part}
            for part in message.parts
        ]
    calls = [
        {
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        for call in message.tool_calls
    ]
    return [*([{"role": message.role, "content": content}] if content else []), *calls]


def _format(form: Mapping[str, Any]) -> dict[str, Any]:
    """Chat's `response_format` as Responses has it: one level less."""
    return {"type": form["type"], **form.get("json_schema", {})}


def _last(response: Any, theirs: str | None, called: bool) -> Delta:
    cut = response.incomplete_details.reason if response.incomplete_details else None
    usage = None
    if counts := response.usage:
        usage = claimed(
            told(counts, "input_tokens"),
            told(counts, "output_tokens"),
            told(told(counts, "input_tokens_details"), "cached_tokens"),
            told(told(counts, "output_tokens_details"), "reasoning_tokens"),
        )
    cut = "length" if cut == "max_output_tokens" else cut
    reason = finish_reason(cut or ("tool_calls" if called else None))
    return Delta(finish_reason=reason, usage=usage, provider_id=theirs or response.id)
