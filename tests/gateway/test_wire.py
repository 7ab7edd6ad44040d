"""What other clients and servers put into a request: nulls, additions, loose ends, wrong types."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from serve_app.domain import Image, Message
from serve_app.errors import TriviumError
from serve_app.gateway.schema import (
    ChatCompletionRequest,
    IngestJobRequest,
    IngestRequest,
    RouteRequest,
    SearchRequest,
)
from serve_app.gateway.spending import FeedbackRequest
from serve_app.gateway.wire import Wire, located, path
from tests.fixtures import FixedKnowledge, House, ScriptedModel
from tests.gateway.test_http import CHAT, DOCUMENTS, refusal, send

pytestmark = pytest.mark.usefixtures("clean_environment")

ASK: dict[str, Any] = {"role": "user", "content": "x"}
CALL: dict[str, Any] = {
    "id": "a",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
}
CALLING: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "a", "content": "r"}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
}
PNG = "data:image/png;base64,iVBORw0KGgo="
SHOWN = {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}

# One of everything, so that every optional field of every endpoint is in one of them.
WHOLE: list[tuple[type[Wire], dict[str, Any]]] = [
    (
        ChatCompletionRequest,
        {
            "model": "trivium/auto",
            "messages": [
                {"role": "system", "content": "s", "name": "n"},
                {"role": "user", "content": [{"type": "text", "text": "t"}, SHOWN], "name": "n"},
                {**CALLING, "content": "c", "name": "n"},
                RESULT,
            ],
            "stream": True,
            "stream_options": {"include_usage": True, "include_obfuscation": True},
            "max_completion_tokens": 5,
            "temperature": 1,
            "top_p": 0.5,
            "stop": ["e"],
            "seed": 1,
            "presence_penalty": 1,
            "frequency_penalty": 1,
            "reasoning_effort": "low",
            "prediction": "p",
            "prompt_cache_key": "k",
            "prompt_cache_retention": "24h",
            "safety_identifier": "i",
            "service_tier": "flex",
            "store": True,
            "verbosity": "low",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "description": "d", "schema": {}, "strict": True},
            },
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "parallel_tool_calls": True,
            "user": "u",
            "metadata": {"k": "v"},
            "collection": "c",
        },
    ),
    (ChatCompletionRequest, {"messages": [ASK], "max_tokens": 5}),
    (RouteRequest, {"query": "q"}),
    (RouteRequest, {"messages": [ASK]}),
    (
        IngestRequest,
        {
            "documents": [
                {
                    "id": "i",
                    "title": "t",
                    "text": "x",
                    "metadata": {"k": "v"},
                    "source": "/s",
                    "url": "/s/i.md",
                    "allow": ["g"],
                }
            ]
        },
    ),
    (
        SearchRequest,
        {
            "query": "q",
            "k": 5,
            "mode": "dense",
            "metadata": {"k": 1},
            "since": "2026-01-01T00:00:00Z",
            "until": "2026-01-02T00:00:00Z",
            "recent": True,
            "rerank": False,
            "diversity": 0.5,
        },
    ),
    (IngestJobRequest, {"urls": ["https://a.example/b"], "source": "s", "allow": ["g"]}),
    (FeedbackRequest, {"id": "x", "good": True}),
]


def places(value: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every key of every object in a body."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*above, key)
            yield from places(inner, (*above, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*above, index))


def elements(value: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every element of every list in a body."""
    inner: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inner = list(enumerate(value))
        yield from ((*above, index) for index, _ in inner)
    for key, each in inner:
        yield from elements(each, (*above, key))


def without(body: Any, place: tuple[str | int, ...], *, null: bool) -> Any:
    changed = copy.deepcopy(body)
    inner = changed
    for part in place[:-1]:
        inner = inner[part]
    if null:
        inner[place[-1]] = None
    else:
        del inner[place[-1]]
    return changed


def outcome(model: type[Wire], body: Any) -> Wire | None:
    try:
        return model.model_validate(body)
    except (ValidationError, TriviumError):
        return None


def models(base: type[BaseModel]) -> set[type[BaseModel]]:
    return {base, *(each for sub in base.__subclasses__() for each in models(sub))}


@pytest.mark.parametrize(("model", "body"), WHOLE, ids=lambda each: getattr(each, "__name__", ""))
def test_whatever_may_be_absent_may_be_null(model: type[Wire], body: dict[str, Any]) -> None:
    assert model.model_validate(body)
    free = ("metadata", "schema", "parameters")  # what is in there is the caller's own
    for place in places(body):
        absent = outcome(model, without(body, place, null=False))
        if absent is not None and not any(part in free for part in place[:-1]):
            assert outcome(model, without(body, place, null=True)) == absent, path(place)


def test_no_optional_field_is_forgotten_above() -> None:
    given_: set[str] = {str(place[-1]) for _, body in WHOLE for place in places(body)}
    for model in models(Wire) - {Wire}:
        if model.__module__.startswith("serve_app.gateway"):
            optional = set(getattr(model, "optional", ())) - {"function_call"}
            assert optional <= given_, model


def test_the_schema_says_what_may_be_null() -> None:
    schema = SearchRequest.model_json_schema()
    for name in SearchRequest.optional:
        assert {"type": "null"} in schema["properties"][name]["anyOf"], name
    assert {"type": "null"} not in schema["properties"]["query"].get("anyOf", [])


BODIES = st.recursive(
    st.none() | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(st.lists(st.integers(0, 3) | st.sampled_from(["a", "b", "str"]), max_size=5), BODIES)
def test_a_named_place_is_one_of_the_body(place: list[str | int], body: Any) -> None:
    told = located(place, body, missing=False)
    assert told in {path(each) for each in (*places(body), *elements(body))} | {""}


# What servers of this ecosystem write into an assistant's turn.
ADDITIONS: dict[str, Any] = {
    "reasoning_content": "The handbook says so.",
    "reasoning": "Let me think.",
    "reasoning_details": [{"type": "reasoning.encrypted", "data": "…"}],
    "refusal": None,
    "annotations": [{"type": "url_citation", "url_citation": {"url": "u"}}],
    "audio": {"id": "audio_1", "transcript": "spoken"},
    "function_call": None,
    "id": "msg_1",
    "object": "message",
    "status": "completed",
    "images": [{"type": "image_url", "image_url": {"url": "data:x"}}],
    "provider_specific_fields": {"signature": "s"},
    "thinking_blocks": [{"type": "thinking", "thinking": "…"}],
    "stop_reason": None,
    "x_groq": {"id": "req"},
}


@pytest.mark.parametrize("name", ADDITIONS)
async def test_what_a_server_added_to_its_answer_is_dropped(name: str) -> None:
    house = House()
    replayed = {"role": "assistant", "content": "60 days.", name: ADDITIONS[name]}
    response = await send(house, "POST", CHAT, json={"messages": [ASK, replayed, ASK]})
    assert response.status_code == 200, response.text
    assert house.expert.asked[0].messages[-2] == Message("assistant", "60 days.")
    response = await send(house, "POST", "/v1/route", json={"messages": [ASK, replayed, ASK]})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"content": None}, ""),
        ({}, ""),
        ({"content": None, "tool_calls": []}, ""),
        ({"content": None, "refusal": "I cannot."}, "I cannot."),
        ({"content": None, "audio": {"id": "a", "transcript": "spoken"}}, "spoken"),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"content": [{"type": "output_text", "text": "Yes.", "annotations": []}]}, "Yes."),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": "…"},
                    {"type": "text", "text": "b", "citations": None},
                ]
            },
            "b",
        ),
    ],
)
async def test_an_answer_is_replayed_in_whatever_form_it_came(
    turn: dict[str, Any], said: str
) -> None:
    house = House()
    turns = [ASK, {"role": "assistant", **turn}, ASK]
    response = await send(house, "POST", CHAT, json={"messages": turns})
    assert response.status_code == 200, response.text
    assert house.expert.asked[0].messages[-2] == Message("assistant", said)


async def test_calls_are_replayed_with_what_a_server_added() -> None:
    house = House()
    call = {**CALL, "index": 0, "function": {**CALL["function"], "parsed_arguments": {}}}
    turns = [ASK, {**CALLING, "tool_calls": [call]}, {**RESULT, "name": "f", "artifact": {}}]
    tool = {**TOOL, "cache_control": {"type": "ephemeral"}}
    response = await send(house, "POST", CHAT, json={"messages": turns, "tools": [tool]})
    assert response.status_code == 200, response.text
    assert [call.id for call in house.frontier.asked[0].messages[-2].tool_calls] == ["a"]


@pytest.mark.parametrize(
    "added", [{"name": "Ann"}, {"id": "m"}, {"cache_control": {"type": "ephemeral"}}, {"x": None}]
)
@pytest.mark.parametrize("role", ["user", "system"])
async def test_harmless_additions_to_a_persons_turn_are_dropped(
    role: str, added: dict[str, Any]
) -> None:
    turns = [{"role": role, "content": "x", **added}, ASK]
    response = await send(House(), "POST", CHAT, json={"messages": turns})
    assert response.status_code == 200, response.text


async def test_a_part_with_one_key_more_passes() -> None:
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    turns = [{"role": "user", "content": [part]}]
    response = await send(House(), "POST", CHAT, json={"messages": turns})
    assert response.status_code == 200, response.text


LOOSE_ENDS: list[tuple[dict[str, Any], str]] = [
    ({"messages": [ASK, RESULT]}, "messages[1].tool_call_id"),
    ({"messages": [RESULT, ASK]}, "messages[0].tool_call_id"),
    ({"messages": [ASK, CALLING]}, "messages[1].tool_calls[0].id"),
    ({"messages": [ASK, CALLING, ASK, RESULT]}, "messages[1].tool_calls[0].id"),
    ({"messages": [ASK, CALLING, RESULT, RESULT]}, "messages[3].tool_call_id"),
    ({"messages": [ASK, RESULT, CALLING]}, "messages[1].tool_call_id"),
    (
        {"messages": [ASK, CALLING, {**RESULT, "tool_call_id": "b"}]},
        "messages[2].tool_call_id",
    ),
    (
        {"messages": [ASK, {**CALLING, "tool_calls": [CALL, CALL]}, RESULT]},
        "messages[1].tool_calls[1].id",
    ),
    (
        {"messages": [ASK, CALLING, RESULT, CALLING, RESULT]},
        "messages[3].tool_calls[0].id",
    ),
    ({"messages": [ASK], "tools": [TOOL, TOOL]}, "tools[1].function.name"),
    (
        {
            "messages": [ASK],
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "g"}},
        },
        "tool_choice.function.name",
    ),
    ({"messages": [ASK], "tool_choice": "required"}, "tool_choice"),
]


@pytest.mark.parametrize(("body", "param"), LOOSE_ENDS)
@pytest.mark.parametrize("model", ["trivium/auto", "trivium/frontier"])
async def test_loose_ends_are_refused_by_name_before_anybody_is_asked(
    model: str, body: dict[str, Any], param: str
) -> None:
    house = House()
    response = await send(house, "POST", CHAT, json={"model": model, **body})
    assert refusal(response, 400, "invalid_value")["param"] == param
    assert house.frontier.asked == house.expert.asked == []


async def test_loose_ends_are_refused_where_only_the_road_is_asked_for() -> None:
    response = await send(House(), "POST", "/v1/route", json={"messages": [ASK, RESULT]})
    assert refusal(response, 400, "invalid_value")["param"] == "messages[1].tool_call_id"


def chat(**fields: Any) -> tuple[str, str, dict[str, Any]]:
    return "POST", CHAT, {"messages": [ASK], **fields}


SEARCH = "/v1/collections/default/search"
WRONG_TYPES: list[tuple[tuple[str, str, Any], str]] = [
    (chat(max_completion_tokens="10"), "max_completion_tokens"),
    (chat(max_completion_tokens=True), "max_completion_tokens"),
    (chat(max_completion_tokens=1.5), "max_completion_tokens"),
    (chat(temperature="1"), "temperature"),
    (chat(temperature=True), "temperature"),
    (chat(temperature=float("inf")), "temperature"),
    (chat(seed="1"), "seed"),
    (chat(stream="true"), "stream"),
    (chat(stream=1), "stream"),
    (chat(stream=True, stream_options={"include_usage": "yes"}), "stream_options.include_usage"),
    (chat(user=7), "user"),
    (chat(metadata={"k": 1}), "metadata.k"),
    (chat(stop=""), "stop"),
    (chat(stop=["a", ""]), "stop"),
    (chat(stop=7), "stop"),
    (chat(stop=[7]), "stop[0]"),
    (chat(model=7), "model"),
    (chat(parallel_tool_calls="no"), "parallel_tool_calls"),
    (chat(tool_choice=7, tools=[TOOL]), "tool_choice"),
    (chat(tool_choice="some", tools=[TOOL]), "tool_choice"),
    (chat(tool_choice={"type": "function"}, tools=[TOOL]), "tool_choice.function"),
    (chat(response_format={"type": "yaml"}), "response_format.type"),
    (chat(response_format={"type": "json_schema"}), "response_format"),
    (
        chat(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": 7}}),
        "response_format.json_schema.schema",
    ),
    (
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"minimum": float("nan")}},
            }
        ),
        "response_format.json_schema.schema.minimum",
    ),
    (chat(messages=[{"role": "user", "content": 7}]), "messages[0].content"),
    (chat(messages=[{"role": "user", "content": {}}]), "messages[0].content"),
    (chat(messages=[{"role": "user", "content": ["x"]}]), "messages[0].content[0]"),
    (chat(messages=[{"role": "robot", "content": "x"}]), "messages[0].role"),
    (chat(messages=[{"role": ["user"], "content": "x"}]), "messages[0].role"),
    (chat(messages=[{**ASK, "tool_calls": [CALL]}]), "messages[0].tool_calls"),
    (
        chat(messages=[ASK, {"role": "assistant", "function_call": {"name": "f"}}, ASK]),
        "messages[1].function_call",
    ),
    (
        chat(messages=[ASK, {**CALLING, "tool_calls": [{**CALL, "id": None}]}, RESULT]),
        "messages[1].tool_calls[0].id",
    ),
    (chat(messages=[{"role": "user", "content": "\ud800"}]), "messages[0].content"),
    (("POST", "/v1/route", {"query": ""}), "query"),
    (("POST", "/v1/route", {"query": 7}), "query"),
    (("POST", "/v1/route", {"messages": [{"role": "system", "content": "x"}]}), "messages"),
    (("POST", "/v1/feedback", {"id": "x", "good": "true"}), "good"),
    (("POST", "/v1/feedback", {"id": "x", "good": 1}), "good"),
    (("POST", SEARCH, {"query": "a", "k": "5"}), "k"),
    (("POST", SEARCH, {"query": 7}), "query"),
    (("POST", SEARCH, {"query": "a", "recent": 1}), "recent"),
    (("POST", SEARCH, {"query": "a", "since": 1700000000}), "since"),
    (("POST", SEARCH, {"query": "a", "since": "yesterday"}), "since"),
    (("POST", SEARCH, {"query": "a", "since": "2026-01-01T00:00:00"}), "since"),
    (("POST", SEARCH, {"query": "a", "metadata": {"n": float("nan")}}), "metadata.n"),
    (("POST", SEARCH, {"query": "a", "metadata": {"n": []}}), "metadata.n"),
    (("POST", SEARCH, {"query": "a", "metadata": {"n": 2**63}}), "metadata.n"),
    (
        ("PUT", DOCUMENTS, {"documents": [{"id": "i", "text": 7}]}),
        "documents[0].text",
    ),
    (
        ("PUT", DOCUMENTS, {"documents": [{"id": "i", "text": "x", "metadata": {"n": 1e999}}]}),
        "documents[0].metadata.n",
    ),
    (("GET", "/v1/usage?days=x", None), "days"),
]


@pytest.mark.parametrize(("request_", "param"), WRONG_TYPES)
async def test_text_is_no_number_and_every_400_names_its_param(
    request_: tuple[str, str, Any], param: str
) -> None:
    method, where, body = request_
    house = House()
    headers = {"content-type": "application/json"}
    response = await send(house, method, where, content=json.dumps(body), headers=headers)
    assert refusal(response, 400, "invalid_value")["param"] == param
    assert param in response.json()["error"]["message"]
    assert house.frontier.asked == house.expert.asked == []


@pytest.mark.parametrize("stop", [None, [], ["END"], "END"])
async def test_a_stop_that_is_empty_asks_for_nothing(stop: Any) -> None:
    house = House()
    response = await send(house, "POST", CHAT, json={"messages": [ASK], "stop": stop})
    assert response.status_code == 200, response.text
    assert house.expert.asked[0].options.get("stop") == (["END"] if stop else None)


async def test_a_whole_number_may_have_a_point() -> None:
    house = House()
    body = {"messages": [ASK], "max_completion_tokens": 10.0, "n": 1.0}
    response = await send(house, "POST", CHAT, json=body)
    assert response.status_code == 200, response.text
    assert house.expert.asked[0].max_tokens == 10


@pytest.mark.parametrize("where", ["/v1/usage?days=", f"{DOCUMENTS}?limit=&after="])
async def test_a_parameter_without_a_value_is_absent(where: str) -> None:
    response = await send(House(), "GET", where)
    assert response.status_code == 200, response.text


async def test_metadata_keeps_its_types() -> None:
    house = House(knowledge=FixedKnowledge())
    metadata = {"on": True, "one": 1, "half": 0.5, "word": "1"}
    documents = [{"id": "i", "text": "x", "metadata": metadata}]
    response = await send(house, "PUT", DOCUMENTS, json={"documents": documents})
    assert response.status_code == 200, response.text
    kept = house.knowledge.ingested[0].metadata
    assert {name: type(value) for name, value in kept.items()} == {
        name: type(value) for name, value in metadata.items()
    }


PICTURES = [
    (PNG, PNG),
    ("DATA:IMAGE/PNG;BASE64,iVBORw0KGgo=", PNG),
    ("data:image/png;charset=utf-8;base64,iVBORw0KGgo=", PNG),
    ("data:image/png;base64,iVBORw0KGgo", PNG),
    ("data:image/png;base64,iVBORw0KGgo%3D", PNG),
    (" data:image/png;base64,iVBOR w0K\nGgo=", PNG),
    ("data:image/jpg;base64,/9j/4AAQ", "data:image/jpeg;base64,/9j/4AAQ"),
    ("data:image/gif;base64,R0lGODlh", "data:image/gif;base64,R0lGODlh"),
    ("https://example.com/a.png", "https://example.com/a.png"),
    ("HTTPS://Example.com/A.png", "https://Example.com/A.png"),
]


@pytest.mark.parametrize(("sent", "taken"), PICTURES)
async def test_pictures_are_taken_however_their_address_is_written(sent: str, taken: str) -> None:
    house = House(picture_hosts=["example.com"])
    turns = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": sent}}]}]
    response = await send(house, "POST", CHAT, json={"messages": turns})
    assert response.status_code == 200, response.text
    assert house.frontier.asked[0].messages[-1].parts == (Image(taken),)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("data:image/jpg;base64,iVBORw0K", "image/jpeg"),
        ("data:image/png;base64,AAAA", "whole picture"),
        ("data:image/png;base64,iVBORw0KG!!!", "encode"),
        ("data:image/png;base64,", "whole picture"),
        ("data:image/png,x", "base64"),
        ("data:image/svg+xml;base64,PHN2Zz4=", "image/png"),
        ("data:;base64,AAAA", "image/png"),
        ("http://example.com/a.png", "https://"),
        ("https://", "https://"),
        ("ftp://example.com/a.png", "https://"),
        ("a.png", "https://"),
        ("", "https://"),
    ],
)
async def test_what_is_no_picture_is_refused_with_its_part_and_a_remedy(
    url: str, remedy: str
) -> None:
    house = House()
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": url}}]
    turns = [{"role": "user", "content": parts}]
    response = await send(house, "POST", CHAT, json={"messages": turns})
    error = refusal(response, 400, "invalid_value")
    assert error["param"] == "messages[0].content[1].image_url.url"
    assert remedy in error["message"]
    assert house.frontier.asked == []


@pytest.mark.parametrize("kind", ["input_audio", "file", "video_url", "input_text", None, 7])
async def test_a_part_that_no_road_takes_is_refused_with_a_remedy(kind: Any) -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind}]}]
    error = refusal(
        await send(House(), "POST", CHAT, json={"messages": turns}), 400, "invalid_value"
    )
    assert error["param"] == "messages[0].content[1]"
    assert "send type text or image_url" in error["message"]


async def test_a_body_that_is_nested_too_deeply_is_refused() -> None:
    schema: Any = {}
    for _ in range(900):
        schema = {"items": schema}
    house = House(expert=ScriptedModel("x"))
    form = {"type": "json_schema", "json_schema": {"name": "deep", "schema": schema}}
    content = json.dumps({"messages": [ASK], "response_format": form})
    headers = {"content-type": "application/json"}
    response = await send(house, "POST", CHAT, content=content, headers=headers)
    assert response.status_code == 400, response.text
