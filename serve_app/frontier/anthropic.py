"""Anthropic's Messages, or any server that speaks it (`frontier.base_url`)."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

import anthropic

from serve_app.domain import Delta, Generation, Image, Message, ToolCall, Usage
from serve_app.errors import InvalidRequest, UnsupportedParameter
from serve_app.frontier.providers import claimed, failure, finish_reason, headers, translated
from serve_app.settings import UpstreamSettings

Blocks = list[dict[str, Any]]


class AnthropicProvider:
    # In the body as they are: newer models take fewer of them than the SDK can know.
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
        calls = _Calls()
        with translated(anthropic):
            async with self._client.messages.stream(**request) as stream:
                async for event in stream:
                    if event.type == "text":
                        yield Delta(text=event.text)
                    elif piece := calls.piece(event):
                        yield Delta(tool_calls=(piece,))
                message = await stream.get_final_message()
                theirs = stream.response.headers.get("request-id")
            if message.stop_reason is None:
                raise failure(None)
        yield Delta(
            finish_reason=finish_reason(message.stop_reason),
            usage=_usage(message.usage),
            provider_id=theirs or message.id,
        )

    def _request(self, generation: Generation) -> dict[str, Any]:
        options = dict(generation.options)
        sampling = {
            theirs: options.pop(ours) for ours, theirs in self._NAMES.items() if ours in options
        }
        request: dict[str, Any] = {
            "extra_headers": headers(generation),
            "model": self._model,
            "max_tokens": generation.max_tokens,
            "messages": _turns(generation.messages),
            **_tools(options),
            **_structured(options.pop("response_format", None)),
        }
        for name in options:
            raise UnsupportedParameter(
                f"the frontier model does not support {name!r}; leave it out", param=name
            )
        system = [m.content for m in generation.messages if m.role in ("system", "developer")]
        if system:
            request["system"] = "\n\n".join(system)
        if sampling:
            request["extra_body"] = sampling
        return request


def _usage(counts: Any) -> Usage | None:
    """What was read anew, read from the cache, or written into it, is apart in Anthropic's."""
    cached = counts.cache_read_input_tokens or 0
    parts = (counts.input_tokens, cached, counts.cache_creation_input_tokens or 0)
    prompt = sum(parts) if all(type(each) is int for each in parts) else None
    return claimed(prompt, counts.output_tokens, cached)


class _Calls:
    """The calls of one answer, as they stream."""

    def __init__(self) -> None:
        self._index = -1
        self._empty = False

    def piece(self, event: Any) -> ToolCall | None:
        """What an event of the stream adds to a call; `None` where it is about something else."""
        match event.type:
            case "content_block_start" if event.content_block.type == "tool_use":
                self._index, self._empty = self._index + 1, True
                block = event.content_block
                return ToolCall(self._index, block.id, block.name, "")
            case "input_json" if event.partial_json:
                self._empty = False
                return ToolCall(self._index, "", "", event.partial_json)
            case "content_block_stop" if self._empty:
                # Called without arguments: callers expect JSON all the same.
                self._empty = False
                return ToolCall(self._index, "", "", "{}")
        return None


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns of user and assistant in lists of blocks; results of tools are the user's, together."""
    spoken = [each for each in messages if each.role not in ("system", "developer")]
    turns: list[dict[str, Any]] = []
    for role, group in itertools.groupby(spoken, key=lambda each: each.role):
        if role == "tool":
            results = [
                {"type": "tool_result", "tool_use_id": each.tool_call_id, "content": each.content}
                for each in group
            ]
            turns.append({"role": "user", "content": results})
            continue
        turns += [{"role": role, "content": _content(each)} for each in group]
    return turns


def _content(message: Message) -> str | Blocks:
    if message.plain:
        return message.content
    texts = message.parts or ((message.content,) if message.content else ())
    blocks = [_image(part) if isinstance(part, Image) else _text(part) for part in texts]
    return [*blocks, *(_use(call) for call in message.tool_calls)]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image(image: Image) -> dict[str, Any]:
    kind, _, data = image.url.removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _use(call: ToolCall) -> dict[str, Any]:
    try:
        given = json.loads(call.arguments or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise InvalidRequest(
            f"the arguments of the call {call.id} are no JSON object", param="messages"
        )
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


def _tools(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the tools out of OpenAI's options, and says them in Anthropic's words."""
    functions = [each["function"] for each in options.pop("tools", ())]
    choice = options.pop("tool_choice", "auto")
    parallel = options.pop("parallel_tool_calls", True)
    if not functions:
        return {}
    match choice:
        case str():
            chosen: dict[str, Any] = {"type": {"required": "any"}.get(choice, choice)}
        case _:
            chosen = {"type": "tool", "name": choice["function"]["name"]}
    if not parallel and chosen["type"] != "none":
        chosen["disable_parallel_tool_use"] = True
    return {"tools": [_tool(each) for each in functions], "tool_choice": chosen}


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    kept = {name: function[name] for name in ("name", "description", "strict") if name in function}
    return {**kept, "input_schema": schema}


def _structured(form: Mapping[str, Any] | None) -> dict[str, Any]:
    """OpenAI's `response_format`."""
    match form:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
        case {"type": "json_object"}:
            raise UnsupportedParameter(
                "the frontier model writes JSON by a schema only: give response_format json_schema",
                param="response_format",
            )
    return {}
