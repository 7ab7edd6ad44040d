"""Tools and pictures on each provider's own wire."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.domain import Delta, Generation, Image, Message, ToolCall
from serve_app.errors import InvalidRequest
from tests.frontier.requests import Kind
from tests.frontier.wire import (
    ANTHROPIC,
    ASK,
    BOTH,
    OPENAI,
    RESPONSES,
    Wire,
    answering,
    client,
    serving,
    streamed,
)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "weather", "description": "Now.", "parameters": SCHEMA, "strict": True}
NAMED = {"type": "function", "function": {"name": "weather"}}
TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": FUNCTION}]}
PICTURE = Image("data:image/png;base64,iVBORw0KGgo=", "low")
OTHER = Image("data:image/gif;base64,R0lGODlh")
CONVERSATION = Generation(
    (
        Message("system", "Be brief."),
        Message("user", "Here? Or there?", ("Here?", PICTURE, "Or there?", OTHER)),
        Message(
            "assistant",
            "I look.",
            tool_calls=(
                ToolCall(0, "call_1", "weather", '{"city": "Oslo"}'),
                ToolCall(1, "call_2", "weather", "{}"),
            ),
        ),
        Message("tool", "sun", tool_call_id="call_1"),
        Message("tool", "rain", tool_call_id="call_2"),
    ),
    32,
    {**TOOLS, "tool_choice": NAMED, "parallel_tool_calls": False},
)


def _call(index: int, id_: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    piece = {"index": index, "id": id_, "type": "function", "function": function}
    return {"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]}


def _block(index: int, id_: str, *parts: str) -> list[dict[str, Any]]:
    block = {"type": "tool_use", "id": id_, "name": "weather", "input": {}}
    pieces = [{"type": "input_json_delta", "partial_json": part} for part in parts]
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": each} for each in pieces),
        {"type": "content_block_stop", "index": index},
    ]


def _item(index: int, id_: str, *parts: str) -> list[dict[str, Any]]:
    item = {"type": "function_call", "id": f"fc_{index}", "call_id": id_, "name": "weather"}
    started = {**item, "arguments": "", "status": "in_progress"}
    place = {"output_index": index, "item_id": f"fc_{index}"}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": started},
        *(
            {"type": "response.function_call_arguments.delta", **place, "delta": part}
            for part in parts
        ),
    ]


def calling(kind: Kind) -> bytes:
    """Says something, then calls twice: once with arguments in two pieces, once with none."""
    parts = ('{"city": ', '"Oslo"}')
    match kind:
        case "openai":
            told = [
                *OPENAI[:3],
                _call(0, "call_1", "weather", parts[0]),
                _call(0, None, None, parts[1]),
                _call(1, "call_2", "weather", "{}"),
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
                OPENAI[-1],
            ]
        case "anthropic":
            ended = {**ANTHROPIC[-2], "delta": {"stop_reason": "tool_use", "stop_sequence": None}}
            # Without arguments its input never comes.
            calls = [*_block(1, "call_1", "", *parts), *_block(2, "call_2", "")]
            told = [*ANTHROPIC[:-2], *calls, ended, ANTHROPIC[-1]]
        case _:
            done = {**RESPONSES[-1]["response"], "status": "completed", "incomplete_details": None}
            calls = [*_item(1, "call_1", *parts), *_item(2, "call_2", "{}")]
            told = [*RESPONSES[:-1], *calls, {"type": "response.completed", "response": done}]
    return streamed(kind, told)


@BOTH
async def test_calls_come_in_pieces_and_end_the_answer(kind: Kind) -> None:
    async with serving(kind, answering(kind, answer=calling(kind))) as model:
        deltas = [delta async for delta in model.generate(ASK)]
    assert "".join(delta.text for delta in deltas) == "Héllo"
    assert joined(deltas) == [
        ToolCall(0, "call_1", "weather", '{"city": "Oslo"}'),
        ToolCall(1, "call_2", "weather", "{}"),
    ]
    assert [d.finish_reason for d in deltas if d.finish_reason] == ["tool_calls"]
    assert [d.usage.completion_tokens for d in deltas if d.usage] == [5]


def joined(deltas: list[Delta]) -> list[ToolCall]:
    calls: dict[int, ToolCall] = {}
    for piece in (piece for delta in deltas for piece in delta.tool_calls):
        known = calls.get(piece.index)
        calls[piece.index] = known + piece if known else piece
    return list(calls.values())


async def sent(kind: Kind, generation: Generation) -> dict[str, Any]:
    """The body that a provider gets."""
    wire = Wire()
    async with serving(kind, answering(kind, wire)) as model:
        async for _ in model.generate(generation):
            pass
    return wire.body


async def test_openai_gets_tools_and_pictures_as_they_came() -> None:
    body = await sent("openai", CONVERSATION)
    assert body["tools"] == TOOLS["tools"]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (NAMED, False)
    picture = {"url": PICTURE.url, "detail": "low"}
    calls = [("call_1", '{"city": "Oslo"}'), ("call_2", "{}")]
    assert body["messages"][1:] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Here?"},
                {"type": "image_url", "image_url": picture},
                {"type": "text", "text": "Or there?"},
                {"type": "image_url", "image_url": {"url": OTHER.url, "detail": "auto"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {
                    "id": id_,
                    "type": "function",
                    "function": {"name": "weather", "arguments": arguments},
                }
                for id_, arguments in calls
            ],
        },
        {"role": "tool", "content": "sun", "tool_call_id": "call_1"},
        {"role": "tool", "content": "rain", "tool_call_id": "call_2"},
    ]


async def test_anthropic_gets_them_in_blocks() -> None:
    body = await sent("anthropic", CONVERSATION)
    kept = {name: FUNCTION[name] for name in ("name", "description", "strict")}
    assert body["tools"] == [{**kept, "input_schema": SCHEMA}]
    chosen = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    assert body["tool_choice"] == chosen
    data = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    use = {"type": "tool_use", "name": "weather"}
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Here?"},
                {"type": "image", "source": data},
                {"type": "text", "text": "Or there?"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/gif", "data": "R0lGODlh"},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {**use, "id": "call_1", "input": {"city": "Oslo"}},
                {**use, "id": "call_2", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "sun"},
                {"type": "tool_result", "tool_use_id": "call_2", "content": "rain"},
            ],
        },
    ]


async def test_responses_gets_them_as_items() -> None:
    body = await sent("openai-responses", CONVERSATION)
    assert body["tools"] == [{"type": "function", **FUNCTION}]
    assert body["tool_choice"] == {"type": "function", "name": "weather"}
    call = {"type": "function_call", "name": "weather"}
    assert body["input"][1:] == [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Here?"},
                {"type": "input_image", "image_url": PICTURE.url, "detail": "low"},
                {"type": "input_text", "text": "Or there?"},
                {"type": "input_image", "image_url": OTHER.url, "detail": "auto"},
            ],
        },
        {"role": "assistant", "content": "I look."},
        {**call, "call_id": "call_1", "arguments": '{"city": "Oslo"}'},
        {**call, "call_id": "call_2", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sun"},
        {"type": "function_call_output", "call_id": "call_2", "output": "rain"},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("auto", {"type": "auto"}), ("required", {"type": "any"}), ("none", {"type": "none"})],
)
async def test_what_anthropic_calls_a_choice(choice: str, expected: dict[str, str]) -> None:
    body = await sent("anthropic", Generation(ASK.messages, 32, {**TOOLS, "tool_choice": choice}))
    assert body["tool_choice"] == expected


async def test_anthropic_writes_json_by_a_schema() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    body = await sent("anthropic", Generation(ASK.messages, 32, {"response_format": form}))
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}


@pytest.mark.parametrize("arguments", ['{"city": ', "[1]", "null"])
async def test_arguments_that_are_no_json_are_the_callers_mistake(arguments: str) -> None:
    broken = Message("assistant", "", tool_calls=(ToolCall(0, "call_1", "weather", arguments),))
    model = client("anthropic", "http://127.0.0.1:1")
    with pytest.raises(InvalidRequest, match="call_1"):
        await anext(aiter(model.generate(Generation((*ASK.messages, broken), 32))))
