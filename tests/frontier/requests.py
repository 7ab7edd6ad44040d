"""What the providers refuse: the SDKs' own types of a request, and the documented limits.

Each check returns what a provider would say, or nothing where it would take the request.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from anthropic.types.message_create_params import MessageCreateParamsStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter, ValidationError

Kind = Literal["openai", "anthropic", "openai-responses"]

_TYPES: dict[Kind, Any] = {
    "openai": CompletionCreateParamsStreaming,
    "openai-responses": ResponseCreateParamsStreaming,
    "anthropic": MessageCreateParamsStreaming,
}

# Of models that the SDK's types have left behind and the provider still serves.
_OLDER: dict[Kind, set[str]] = {
    "openai": set(),
    "openai-responses": set(),
    "anthropic": {"temperature", "top_p"},
}


@dataclass(frozen=True)
class Wrong:
    """What a provider finds fault with."""

    param: str
    message: str


Take = Callable[[dict[str, Any]], Wrong | None]


def wrong_with(kind: Kind, body: dict[str, Any], *more: Take) -> Wrong | None:
    """Why the provider would refuse a body; `None` where it would answer."""
    limits = {"openai": _chat, "openai-responses": _responses, "anthropic": _messages}[kind]
    return next((wrong for take in (_typed(kind), limits, *more) if (wrong := take(body))), None)


def takes_no(name: str) -> Take:
    """As OpenAI's reasoning models refuse what shapes sampling."""

    def take(body: dict[str, Any]) -> Wrong | None:
        said = f"Unsupported parameter: '{name}' is not supported with this model."
        found: Any = body
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return Wrong(name, said) if found is not None else None

    return take


@functools.cache
def _adapter(kind: Kind) -> TypeAdapter[Any]:
    return TypeAdapter(_TYPES[kind])


def _typed(kind: Kind) -> Take:
    def take(body: dict[str, Any]) -> Wrong | None:
        known = typing.get_type_hints(_TYPES[kind], include_extras=True).keys() | _OLDER[kind]
        if unknown := body.keys() - known:
            return Wrong(min(unknown), f"Unknown parameter: '{min(unknown)}'.")
        try:
            _read(_adapter(kind).validate_python(body))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            return Wrong(str(first["loc"][0]) if first["loc"] else "", f"{where}: {first['msg']}")
        return None

    return take


def _read(value: Any) -> None:
    """Pydantic checks what is iterable only as it is read."""
    if isinstance(value, Mapping):
        for each in value.values():
            _read(each)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for each in value:
            _read(each)


def _between(body: Mapping[str, Any], name: str, least: float, most: float) -> Wrong | None:
    value = body.get(name)
    if value is None or (isinstance(value, int | float) and least <= value <= most):
        return None
    return Wrong(name, f"{name}: range: {least}..{most}")


def _in_json(turns: Any) -> Wrong | None:
    if "json" in str(turns).lower():
        return None
    told = "must contain the word 'json' in some form, to use a format of type 'json_object'."
    return Wrong("messages", f"'messages' {told}")


def _chat(body: dict[str, Any]) -> Wrong | None:
    form = body.get("response_format") or {}
    if form.get("type") == "json_object" and (wrong := _in_json(body["messages"])):
        return wrong
    asked: set[str] = set()
    for turn in body["messages"]:
        called = {call["id"] for call in turn.get("tool_calls") or ()}
        if turn["role"] == "tool" and turn["tool_call_id"] not in asked:
            return Wrong("messages", "role 'tool' must follow a call")
        asked |= called
    return (
        _between(body, "temperature", 0, 2)
        or _between(body, "top_p", 0, 1)
        or _between(body, "max_completion_tokens", 1, 1 << 20)
        or _between({"stop": len(body.get("stop") or ())}, "stop", 0, 4)
    )


def _responses(body: dict[str, Any]) -> Wrong | None:
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") == "json_object" and (wrong := _in_json(body["input"])):
        return Wrong("input", wrong.message)
    return (
        _between(body, "max_output_tokens", 16, 1 << 20)
        or _between(body, "temperature", 0, 2)
        or _between(body, "top_p", 0, 1)
    )


def _messages(body: dict[str, Any]) -> Wrong | None:
    turns = body["messages"]
    if turns[0]["role"] != "user":
        return Wrong("messages", "messages: first message must use the user role")
    for number, turn in enumerate(turns):
        content = turn["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        if any(each["type"] == "text" and not each["text"].strip() for each in blocks):
            return Wrong("messages", f"messages.{number}: text content blocks must be non-empty")
        if not blocks:
            return Wrong("messages", f"messages.{number}: content must not be empty")
    if {"temperature", "top_p"} <= body.keys():
        return Wrong("temperature", "temperature and top_p cannot both be specified")
    if not all(each.strip() for each in body.get("stop_sequences") or ()):
        return Wrong("stop_sequences", "stop_sequences: must contain non-whitespace")
    choice, tools = body.get("tool_choice"), {each["name"] for each in body.get("tools") or ()}
    if choice and choice["type"] == "tool" and choice["name"] not in tools:
        return Wrong("tool_choice", "tool_choice: no such tool")
    if choice and not tools:
        return Wrong("tool_choice", "tool_choice may only be specified while providing tools")
    return (
        _between(body, "temperature", 0, 1)
        or _between(body, "top_p", 0, 1)
        or _between(body, "max_tokens", 1, 1 << 17)
    )
