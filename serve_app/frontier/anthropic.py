"""Anthropic's Messages, or any server that speaks it (`frontier.base_url`)."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

import anthropic

from serve_app.domain import Delta, Generation, Image, Message, ToolCall, Usage
from serve_app.errors import InvalidRequest
from serve_app.frontier.providers import (
    claimed,
    failure,
    finish_reason,
    headers,
    patience,
    translated,
)
from serve_app.settings import UpstreamSettings

Blocks = list[dict[str, Any]]

_BEGIN = "(The conversation begins.)"
_REFUSAL = "The model declined to answer."
_JSON: dict[str, Any] = {
    "name": "answer_in_json",
    "description": "Give the whole answer, as one JSON object.",
    "input_schema": {"type": "object"},
}


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
            timeout=patience(anthropic, silence_s),
            max_retries=0,
        )

    async def aclose(self) -> None:
        await self._client.close()

    async def generate(self, generation: Generation) -> AsyncGenerator[Delta]:
        request = self._request(generation)
        calls = _Calls()
        with translated(anthropic):
            async with self._client.messages.stream(**request) as stream:
                async for event in stream:
                    if event.type == "text":
                        yield Delta(text=event.text)
                    elif piece := calls.piece(event):
                        yield piece
                message = await stream.get_final_message()
                theirs = stream.response.headers.get("request-id")
            if message.stop_reason is None:
                raise failure(None)
        refused = message.stop_reason == "refusal"
        details = message.stop_details
        # It called the tool that stands for JSON: to the caller that is an answer.
        wrote = message.stop_reason == "tool_use" and not calls.any
        yield Delta(
            refusal=(details and details.explanation) or _REFUSAL if refused else "",
            finish_reason=finish_reason("end_turn" if wrote else message.stop_reason),
            usage=_usage(message.usage),
            provider_id=theirs or message.id,
        )

    def _request(self, generation: Generation) -> dict[str, Any]:
        options = dict(generation.options)
        sampling = {
            theirs: options.pop(ours) for ours, theirs in self._NAMES.items() if ours in options
        }
        form = options.pop("response_format", None)
        effort = options.pop("reasoning_effort", None)
        output = {**_structured(form), **({"effort": effort} if effort else {})}
        tools = _tools(options)
        request: dict[str, Any] = {
            "extra_headers": headers(generation),
            "model": self._model,
            "max_tokens": generation.max_tokens,
            "messages": _turns(generation.messages),
            **(_with_json(tools) if form and form["type"] == "json_object" else tools),
            **({"output_config": output} if output else {}),
        }
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
    """The calls of one answer, as they stream. What goes to the tool for JSON is text."""

    def __init__(self) -> None:
        self._index = -1
        self._empty = False
        self._json = False

    @property
    def any(self) -> bool:
        """Whether a tool of the caller's was called."""
        return self._index >= 0

    def piece(self, event: Any) -> Delta | None:
        """What an event of the stream adds to a call; `None` where it is about something else."""
        match event.type:
            case "content_block_start" if event.content_block.type == "tool_use":
                block = event.content_block
                self._empty, self._json = True, block.name == _JSON["name"]
                if self._json:
                    return None
                self._index += 1
                return Delta(tool_calls=(ToolCall(self._index, block.id, block.name, ""),))
            case "input_json" if event.partial_json:
                self._empty = False
                return self._more(event.partial_json)
            case "content_block_stop" if self._empty:
                # Called without arguments: callers expect JSON all the same.
                self._empty = False
                return self._more("{}")
        return None

    def _more(self, arguments: str) -> Delta:
        if self._json:
            return Delta(arguments)
        return Delta(tool_calls=(ToolCall(self._index, "", "", arguments),))


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns of user and assistant in lists of blocks; results of tools are the user's, together."""
    spoken = [each for each in messages if each.role not in ("system", "developer")]
    # It takes no turn that says nothing.
    spoken = [each for each in spoken if not each.plain or each.content.strip()]
    turns: list[dict[str, Any]] = []
    if spoken and spoken[0].role == "assistant":
        turns.append({"role": "user", "content": _BEGIN})  # and none of its own before a user's
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
    texts = message.parts or (message.content,)
    texts = tuple(each for each in texts if isinstance(each, Image) or each.strip())
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
    """OpenAI's `response_format` with a schema."""
    match form:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return {"format": {"type": "json_schema", "schema": schema}}
    return {}


def _with_json(tools: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's `json_object`, which Anthropic has not: the answer is the input of a tool."""
    chosen = tools.get("tool_choice", {"type": "none"})
    match chosen["type"]:
        case "auto":
            one: dict[str, Any] = {"type": "any"}
        case "none":
            one = {"type": "tool", "name": _JSON["name"]}
        case _:
            return dict(tools)  # another tool must be called, and its input is JSON anyway
    one["disable_parallel_tool_use"] = True
    return {"tools": [*tools.get("tools", ()), _JSON], "tool_choice": one}
