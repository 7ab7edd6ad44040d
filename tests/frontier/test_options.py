"""Whatever a caller may ask for, every provider's model answers: real SDKs, real sockets.

The servers refuse what the providers would.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.domain import Delta, Generation, Message
from serve_app.errors import InvalidRequest
from serve_app.frontier.options import TABLE, WISHES, Fitting
from tests.frontier.requests import Kind, Take, Wrong, takes_no, wrong_with
from tests.frontier.wire import (
    ANTHROPIC,
    ASK,
    BOTH,
    OPENAI,
    RESPONSES,
    Wire,
    answering,
    chunked,
    events,
    receive,
    refuse,
    serving,
    start,
    streamed,
)

JSON = {"response_format": {"type": "json_object"}}
TOOL = {"type": "function", "function": {"name": "weather"}}
SCHEMA = {"name": "s", "schema": {"type": "object", "properties": {}}}

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0.01, 1),
        "seed": st.integers(0, 2**31),
        "presence_penalty": st.floats(-2, 2),
        "frequency_penalty": st.floats(-2, 2),
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"]),
        "stop": st.lists(st.sampled_from(["END", "\n", " ", "llo"]), min_size=1, max_size=4),
        "response_format": st.sampled_from(
            [
                {"type": "text"},
                {"type": "json_object"},
                {"type": "json_schema", "json_schema": SCHEMA},
            ]
        ),
        "tools": st.just([TOOL]),
        "parallel_tool_calls": st.booleans(),
    },
)
TURNS = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "developer", "user", "assistant"]),
        st.sampled_from(["", " ", "hi", "Write JSON."]),
    ),
    max_size=4,
)


async def heard(
    kind: Kind, generation: Generation, *takes: Take, answer: bytes | None = None
) -> tuple[list[Delta], dict[str, Any]]:
    """What comes of a question, and the body that the provider had last."""
    wire = Wire()
    async with serving(kind, answering(kind, wire, answer, *takes)) as model:
        return [delta async for delta in model.generate(generation)], wire.body


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def adapted(deltas: list[Delta]) -> tuple[str, ...]:
    return tuple(name for delta in deltas for name in delta.adapted)


@BOTH
@given(options=OPTIONS, turns=TURNS, tokens=st.integers(1, 100))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_provider_refuses_what_a_caller_may_ask_for(
    kind: Kind, options: dict[str, Any], turns: list[Message], tokens: int
) -> None:
    asked = Generation((*turns, Message("user", "hi")), tokens, options)
    deltas, _ = asyncio.run(heard(kind, asked))
    assert "Héllo".startswith(text(deltas))
    assert any(delta.finish_reason for delta in deltas)
    assert set(adapted(deltas)) <= {*WISHES}


@BOTH
@pytest.mark.parametrize("name", [*WISHES, "stop"])
async def test_a_model_that_takes_a_parameter_no_more_is_asked_without(
    kind: Kind, name: str
) -> None:
    options = {
        "temperature": 0.5,
        "top_p": 0.5,
        "seed": 1,
        "presence_penalty": 1,
        "frequency_penalty": 1,
        "reasoning_effort": "high",
        "stop": ["l"],
    }
    theirs = {
        ("anthropic", "stop"): "stop_sequences",
        ("anthropic", "reasoning_effort"): "output_config.effort",
        ("openai-responses", "reasoning_effort"): "reasoning.effort",
    }.get((kind, name), name)
    asked = Generation(ASK.messages, 32, {name: options[name]})
    wire = Wire()
    requests = 0

    def take(body: dict[str, Any]) -> Wrong | None:
        nonlocal requests
        requests += 1
        return takes_no(theirs)(body)

    async with serving(kind, answering(kind, wire, None, take)) as model:
        for _ in range(2):
            deltas = [delta async for delta in model.generate(asked)]
            # A wish is left out, and that is said; what the answer must keep is kept by us.
            assert adapted(deltas) == ((name,) if name in WISHES else ())
            assert text(deltas) == ("Héllo" if name in WISHES else "Hé")
    assert theirs.partition(".")[0] not in wire.body
    assert requests <= 3  # refused once, at most


async def test_what_one_caller_asks_too_much_of_is_left_to_the_others() -> None:
    def take(body: dict[str, Any]) -> Wrong | None:
        much = body.get("temperature", 0) > 1.5
        return Wrong("temperature", "temperature: at most 1.5") if much else None

    wire = Wire()
    async with serving("openai", answering("openai", wire, None, take)) as model:
        for asked, sent in ((0.2, 0.2), (1.9, None), (0.2, 0.2)):
            wanted = Generation(ASK.messages, 32, {"temperature": asked})
            deltas = [delta async for delta in model.generate(wanted)]
            assert wire.body.get("temperature") == sent
            assert adapted(deltas) == (() if sent else ("temperature",))


async def test_callers_at_once_all_learn_what_a_model_refuses() -> None:
    asked = Generation(ASK.messages, 32, {"temperature": 0.5})
    together = asyncio.Barrier(8)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, body = await receive(reader)
        if wrong := takes_no("temperature")(body):
            await together.wait()  # nobody knows of another one's refusal when he asks
            refuse(writer, "openai", wrong)
        else:
            start(writer)
            writer.write(chunked(events("openai")) + chunked(b""))
        await writer.drain()

    async with serving("openai", handler) as model:

        async def one() -> str:
            return text([delta async for delta in model.generate(asked)])

        assert await asyncio.gather(*(one() for _ in range(8))) == ["Héllo"] * 8


@BOTH
async def test_what_cannot_be_adapted_is_refused_by_name(kind: Kind) -> None:
    theirs = {"openai": "response_format", "openai-responses": "text", "anthropic": "output_config"}
    form = {"response_format": {"type": "json_schema", "json_schema": SCHEMA}}
    with pytest.raises(InvalidRequest) as caught:
        await heard(kind, Generation(ASK.messages, 32, form), takes_no(theirs[kind]))
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("anthropic", {"temperature": 1.7}, {"temperature": 1}),
        ("anthropic", {"temperature": 0.7}, {"temperature": 0.7}),
        ("anthropic", {"seed": 7}, {"seed": None}),
        ("anthropic", {"temperature": 0.1, "top_p": 0.9}, {"temperature": 0.1, "top_p": None}),
        ("openai", {"seed": 7, "presence_penalty": 1}, {"seed": 7, "presence_penalty": 1}),
        ("openai-responses", {"seed": 7}, {"seed": None}),
        ("openai", {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
    ],
)
async def test_what_is_adapted_is_said(
    kind: Kind, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    deltas, body = await heard(kind, Generation(ASK.messages, 32, options))
    assert {name: body.get(name) for name in expected} == expected
    assert set(adapted(deltas)) == {name for name in options if body.get(name) != options[name]}


@pytest.mark.parametrize(
    ("kind", "effort", "expected", "said"),
    [
        ("openai-responses", "minimal", {"reasoning": {"effort": "minimal"}}, ()),
        ("anthropic", "high", {"output_config": {"effort": "high"}}, ()),
        ("anthropic", "none", {"output_config": {"effort": "low"}}, ("reasoning_effort",)),
    ],
)
async def test_effort_reaches_each_provider_in_its_own_words(
    kind: Kind, effort: str, expected: dict[str, Any], said: tuple[str, ...]
) -> None:
    asked = Generation(ASK.messages, 32, {"reasoning_effort": effort})
    deltas, body = await heard(kind, asked)
    assert {name: body[name] for name in expected} == expected
    assert adapted(deltas) == said


@BOTH
@pytest.mark.parametrize("stop", [["llo"], ["\n", "ll"], ["l", "o"], ["él"]])
async def test_stop_sequences_hold_with_every_provider(kind: Kind, stop: list[str]) -> None:
    asked = Generation(ASK.messages, 32, {"stop": stop})
    deltas, body = await heard(kind, asked)
    passed = body.get("stop") or body.get("stop_sequences")
    if passed:
        assert passed == stop
        return
    assert text(deltas) == "Héllo"[: min(at for s in stop if (at := "Héllo".find(s)) >= 0)]
    assert deltas[-1].finish_reason == "stop"


async def test_bound_below_what_responses_takes_is_kept_by_us() -> None:
    deltas, body = await heard("openai-responses", Generation(ASK.messages, 1))
    assert body["max_output_tokens"] == 16
    assert len(text(deltas)) < len("Héllo")
    assert deltas[-1].finish_reason == "length"


@BOTH
async def test_bound_of_a_model_is_kept_and_said(kind: Kind) -> None:
    fitting = Fitting(kind, most=100)
    assert fitting.fit(Generation(ASK.messages, 8000)).generation.max_tokens == 100
    assert fitting.fit(Generation(ASK.messages, 8000)).adapted == ("max_completion_tokens",)
    assert fitting.fit(Generation(ASK.messages, 50)).adapted == ()


async def test_anthropic_writes_a_json_object_where_a_tool_stands_for_it() -> None:
    use = {"type": "tool_use", "id": "t", "name": "answer_in_json", "input": {}}
    parts = ['{"a": ', "1}"]
    told = [
        ANTHROPIC[0],
        {"type": "content_block_start", "index": 0, "content_block": use},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "input_json_delta", "partial_json": part},
            }
            for part in parts
        ),
        {"type": "content_block_stop", "index": 0},
        {**ANTHROPIC[-2], "delta": {"stop_reason": "tool_use", "stop_sequence": None}},
        ANTHROPIC[-1],
    ]
    answer = streamed("anthropic", told)
    deltas, body = await heard("anthropic", Generation(ASK.messages, 32, JSON), answer=answer)
    assert json.loads(text(deltas)) == {"a": 1}
    assert not any(delta.tool_calls for delta in deltas)
    assert deltas[-1].finish_reason == "stop"
    assert body["tool_choice"]["name"] == "answer_in_json"


@pytest.mark.parametrize("kind", ["openai", "openai-responses"])
async def test_openai_is_told_of_json_where_no_turn_is(kind: Kind) -> None:
    for turns in (ASK.messages, ASK.messages[1:]):
        deltas, body = await heard(kind, Generation(turns, 32, JSON))
        assert text(deltas) == "Héllo"
        said = body.get("messages") or body["input"]
        assert [turn["role"] for turn in said] == ["system", "user"]


REFUSED: dict[Kind, list[dict[str, Any]]] = {
    "openai": [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]},
        {"choices": [{"index": 0, "delta": {"refusal": "I will "}}]},
        {"choices": [{"index": 0, "delta": {"refusal": "not."}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        OPENAI[-1],
    ],
    "openai-responses": [
        RESPONSES[0],
        {"type": "response.refusal.delta", "delta": "I will ", "item_id": "i", "output_index": 0},
        {"type": "response.refusal.delta", "delta": "not.", "item_id": "i", "output_index": 0},
        {
            "type": "response.completed",
            "response": {
                **RESPONSES[-1]["response"],
                "status": "completed",
                "incomplete_details": None,
            },
        },
    ],
    "anthropic": [
        ANTHROPIC[0],
        {
            **ANTHROPIC[-2],
            "delta": {
                "stop_reason": "refusal",
                "stop_sequence": None,
                "stop_details": {
                    "type": "refusal",
                    "category": None,
                    "explanation": "I will not.",
                },
            },
        },
        ANTHROPIC[-1],
    ],
}


@BOTH
async def test_refusal_is_not_dropped(kind: Kind) -> None:
    answer = streamed(kind, REFUSED[kind])
    deltas, _ = await heard(kind, Generation(ASK.messages, 32), answer=answer)
    assert text(deltas) == ""
    assert "".join(delta.refusal for delta in deltas) == "I will not."
    assert deltas[-1].usage


def test_table_knows_every_protocol() -> None:
    for name, how in TABLE.items():
        assert set(how) == {"openai", "openai-responses", "anthropic"}, name


@BOTH
def test_servers_refuse_what_the_providers_refuse(kind: Kind) -> None:
    good: dict[str, Any] = {"model": "m", "stream": True}
    turn = [{"role": "user", "content": "hi"}]
    good |= {"input": turn} if kind == "openai-responses" else {"messages": turn}
    good |= {"max_tokens": 32} if kind == "anthropic" else {}
    assert wrong_with(kind, good) is None
    bad: list[dict[str, Any]] = [{"surprise": 1}, {"temperature": 9}, {"top_p": "much"}]
    if kind == "openai-responses":
        bad += [
            {"max_output_tokens": 8},
            {"stop": ["x"]},
            {"text": {"format": {"type": "json_object"}}},
        ]
    if kind == "anthropic":
        empty = [{"role": "user", "content": ""}]
        bad += [{"temperature": 1.7}, {"seed": 7}, {"messages": empty}]
    if kind == "openai":
        bad += [{"response_format": {"type": "json_object"}}, {"tools": [{"type": "toy"}]}]
    for each in bad:
        assert wrong_with(kind, {**good, **each}), each
