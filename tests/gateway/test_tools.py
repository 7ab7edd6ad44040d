"""Tools and pictures by the official SDK: they go to the frontier, whole, and nowhere else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from serve_app.domain import Delta, Image, Message, Route, ToolCall, Usage
from serve_app.errors import FrontierNotConfigured, Unavailable
from tests.fixtures import FixedRouter, House, ScriptedModel, decision
from tests.gateway.test_sdk import sdk_of

pytestmark = pytest.mark.usefixtures("clean_environment")

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Now, in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
ASK: Any = [{"role": "user", "content": "Is it raining in Bergen?"}]
PICTURE = "data:image/png;base64,iVBORw0KGgo="
SHOWN: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
        ],
    }
]
USAGE = Usage(30, 9)
CALLING = (
    Delta("Let me see."),
    Delta(tool_calls=(ToolCall(0, "call_1", "weather", ""),)),
    Delta(tool_calls=(ToolCall(0, "", "", '{"city": '),)),
    Delta(tool_calls=(ToolCall(0, "", "", '"Bergen"}'), ToolCall(1, "call_2", "weather", "{}"))),
    Delta(finish_reason="tool_calls", usage=USAGE),
)


async def test_a_model_calls_a_tool_and_is_told_the_result() -> None:
    house = House(frontier=ScriptedModel(*CALLING))
    async with sdk_of(house) as client:
        answer = await client.chat.completions.create(
            model="trivium/auto", messages=ASK, tools=TOOLS, tool_choice="auto"
        )
        said = answer.choices[0]
        assert said.finish_reason == "tool_calls"
        assert said.message.content == "Let me see."
        assert [
            (call.id, call.function.name, call.function.arguments)
            for call in said.message.tool_calls or []
            if call.type == "function"
        ] == [("call_1", "weather", '{"city": "Bergen"}'), ("call_2", "weather", "{}")]
        assert house.frontier.asked[0].options == {"tools": TOOLS, "tool_choice": "auto"}

        house.frontier.script = ("Yes, ", "it is.")
        results: Any = [
            {"role": "tool", "tool_call_id": call.id, "content": "rain"}
            for call in said.message.tool_calls or []
        ]
        turns: Any = [*ASK, said.message, *results]
        second = await client.chat.completions.create(
            model="trivium/auto", messages=turns, tools=TOOLS
        )
        assert second.choices[0].message.content == "Yes, it is."
    replayed = house.frontier.asked[1].messages[-3:]
    calls = (
        ToolCall(0, "call_1", "weather", '{"city": "Bergen"}'),
        ToolCall(1, "call_2", "weather", "{}"),
    )
    assert replayed == (
        Message("assistant", "Let me see.", tool_calls=calls),
        Message("tool", "rain", tool_call_id="call_1"),
        Message("tool", "rain", tool_call_id="call_2"),
    )
    assert house.expert.asked == []


async def test_calls_are_streamed_as_they_are_made() -> None:
    more = asyncio.Event()
    house = House(frontier=ScriptedModel(*CALLING[:3], more, *CALLING[3:]))
    async with sdk_of(house) as client:
        stream = await client.chat.completions.create(
            model="trivium/auto", messages=ASK, tools=TOOLS, stream=True
        )
        calls: dict[int, list[str]] = {}
        finished = None
        async for chunk in stream:
            for piece in chunk.choices[0].delta.tool_calls or []:
                assert piece.function
                name = piece.function.name or ""
                told = calls.setdefault(piece.index, [piece.id or "", name, ""])
                told[2] += piece.function.arguments or ""
                more.set()
            finished = chunk.choices[0].finish_reason or finished
    assert finished == "tool_calls"
    assert calls == {
        0: ["call_1", "weather", '{"city": "Bergen"}'],
        1: ["call_2", "weather", "{}"],
    }


async def test_an_answer_of_calls_alone_has_no_content() -> None:
    house = House(frontier=ScriptedModel(*CALLING[1:]))
    async with sdk_of(house) as client:
        answer = await client.chat.completions.create(
            model="trivium/frontier", messages=ASK, tools=TOOLS
        )
    assert answer.choices[0].message.content is None
    assert answer.usage
    assert answer.usage.completion_tokens == 9


async def test_pictures_go_along_in_their_place() -> None:
    house = House()
    async with sdk_of(house) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="trivium/auto", messages=SHOWN
        )
    assert raw.headers["x-trivium-route"] == "frontier"
    assert house.frontier.asked[0].messages[-1] == Message(
        "user", "What is this?", ("What is this?", Image(PICTURE, "low"))
    )


@pytest.mark.parametrize("error", [FrontierNotConfigured("no provider"), Unavailable("down")])
async def test_no_other_road_stands_in(error: Exception) -> None:
    house = House(frontier=ScriptedModel(error))
    async with sdk_of(house) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="trivium/auto", messages=ASK, tools=TOOLS)
    assert caught.value.status_code == 503
    assert house.expert.asked == []


async def test_a_pin_keeps_them_in_the_house() -> None:
    house = House(router=FixedRouter(decision(barred=(Route.FRONTIER,))))
    async with sdk_of(house) as client:
        with pytest.raises(openai.PermissionDeniedError, match="tools and pictures"):
            await client.chat.completions.create(model="trivium/auto", messages=SHOWN)
    assert house.frontier.asked == []


async def test_without_a_router_nothing_leaves_the_house() -> None:
    house = House(router=FixedRouter(Unavailable("down")))
    async with sdk_of(house) as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="trivium/auto", messages=ASK, tools=TOOLS)
    assert house.frontier.asked == house.expert.asked == []


async def test_tools_that_must_not_be_used_are_none() -> None:
    house = House()
    async with sdk_of(house) as client:
        await client.chat.completions.create(
            model="trivium/expert", messages=ASK, tools=TOOLS, tool_choice="none"
        )
    assert len(house.expert.asked) == 1
    assert "tools" not in json.dumps(dict(house.expert.asked[0].options))
