"""Halves of surrogate pairs from a provider: they end in no error, and in no bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain import Delta, Route, ToolCall, Usage
from serve_app.orchestration.characters import whole
from tests.fixtures import FixedRouter, House, ScriptedModel, decision
from tests.gateway.test_http import CHAT, TURNS, send
from tests.gateway.test_stream import stream, text_of

pytestmark = pytest.mark.usefixtures("clean_environment")

LAST = Delta(finish_reason="stop", usage=Usage(10, 3))
BROKEN = (Delta("a\ud83d"), Delta("\ude00b\udc00c"), Delta("d\ud800"), LAST)
MENDED = "a😀b\ufffdcd\ufffd"


async def script(*deltas: Delta) -> AsyncGenerator[Delta]:
    for delta in deltas:
        yield delta


@given(st.lists(st.text(st.characters() | st.sampled_from("\ud83d\ude00"), max_size=4)))
async def test_whatever_comes_can_be_encoded_and_whole_characters_stay(pieces: list[str]) -> None:
    deltas = [Delta(piece) for piece in pieces]
    found = "".join([delta.text async for delta in whole(script(*deltas, LAST))])
    sent = "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert found == sent
    assert found.encode() is not None


async def test_an_answer_with_half_a_character_is_answered_whole() -> None:
    house = House(expert=ScriptedModel(*BROKEN))
    response = await send(house, "POST", CHAT, json={"messages": TURNS})
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == MENDED
    assert house.metrics.outcomes == ["ok"]


async def test_an_answer_with_half_a_character_is_streamed() -> None:
    house = House(expert=ScriptedModel(*BROKEN))
    response, events = await stream(house)
    assert response.status_code == 200
    assert text_of(events) == MENDED
    assert house.metrics.outcomes == ["ok"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_with_half_a_character_is_passed_on(streamed: bool) -> None:
    calling = (
        Delta(tool_calls=(ToolCall(0, "id\ud800", "f", '{"a": "\ud83d'),)),
        Delta(tool_calls=(ToolCall(0, "", "", "\ude00\ud800"),)),
        Delta(tool_calls=(ToolCall(0, "", "", '"}'),)),
        Delta(finish_reason="tool_calls", usage=Usage(10, 3), provider_id="p\ud800"),
    )
    house = House(frontier=ScriptedModel(*calling), router=FixedRouter(decision(Route.FRONTIER)))
    tools = [{"type": "function", "function": {"name": "f"}}]
    body: dict[str, Any] = {"messages": TURNS, "tools": tools, "stream": streamed}
    response = await send(house, "POST", CHAT, json=body)
    assert response.status_code == 200, response.text
    if not streamed:
        (call,) = response.json()["choices"][0]["message"]["tool_calls"]
        assert call["id"] == "id\ufffd"
        assert json.loads(call["function"]["arguments"]) == {"a": "😀\ufffd"}
    assert house.metrics.outcomes == ["ok"]
