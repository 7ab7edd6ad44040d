from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.domain import Message, Route
from serve_app.errors import InvalidRequest, ModelNotFound, TriviumError, UnsupportedParameter
from serve_app.gateway.schema import (
    MODELS,
    ChatCompletionRequest,
    IngestRequest,
    RouteRequest,
    SearchRequest,
    resolve,
)
from serve_app.orchestration.run import Question

TURNS = [{"role": "user", "content": "hi"}]

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["user", "system", "assistant", "trivium/auto", "text", "json_schema"])
    | st.sampled_from(["tool", "function", "image_url", "https://example.com/a.png"])
)
JSON = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "json_schema", "schema", "name"])
            | st.sampled_from(["tool_calls", "tool_call_id", "image_url", "url", "function"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
KEYS = [
    *sorted(ChatCompletionRequest.model_fields),
    *("n", "logprobs", "top_logprobs", "functions", "store"),
]
BODIES = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6).flatmap(
    lambda body: st.sampled_from([body, {**body, "messages": TURNS}])
)


def assert_refusal(error: Exception) -> None:
    if isinstance(error, TriviumError):
        assert 400 <= error.status < 500


def asked(**fields: Any) -> Question:
    return ChatCompletionRequest.model_validate({"messages": TURNS, **fields}).question("default")


@given(BODIES | JSON)
def test_any_body_is_a_question_or_a_refusal(body: Any) -> None:
    try:
        made = ChatCompletionRequest.model_validate(body).question("default")
    except (ValidationError, TriviumError) as error:
        assert_refusal(error)
        return
    assert any(
        turn.role == "user" and (turn.parts or turn.content.strip()) for turn in made.messages
    )
    assert not made.only_frontier or made.pinned in (None, Route.FRONTIER)
    assert all(turn.content.encode() is not None for turn in made.messages)


@given(st.dictionaries(st.sampled_from(["query", "messages"]), JSON) | JSON)
def test_any_body_is_a_query_or_a_refusal(body: Any) -> None:
    try:
        messages = RouteRequest.model_validate(body).conversation
    except (ValidationError, TriviumError) as error:
        assert_refusal(error)
        return
    assert [m for m in messages if m.role == "user"][-1].content.strip()


@given(JSON)
def test_any_body_is_documents_or_a_refusal(body: Any) -> None:
    for model in (IngestRequest, SearchRequest):
        try:
            model.model_validate({"documents": [body]})
        except (ValidationError, InvalidRequest) as error:
            assert_refusal(error)


def test_defaults_leave_everything_to_the_house() -> None:
    assert asked() == Question((Message("user", "hi"),), "default")


def test_sampling_parameters_are_passed_under_their_names() -> None:
    schema = {"name": "s", "schema": {"type": "object"}}
    made = asked(
        model="trivium/knowledge",
        collection="hr",
        max_completion_tokens=5,
        temperature=0,
        top_p=0.5,
        stop="END",
        seed=1,
        response_format={"type": "json_schema", "json_schema": schema},
    )
    assert (made.pinned, made.collection, made.max_tokens) == (Route.KNOWLEDGE, "hr", 5)
    assert made.options == {
        "temperature": 0,
        "top_p": 0.5,
        "stop": ["END"],
        "seed": 1,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


def test_text_parts_are_joined_and_nothing_is_added() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert asked(messages=[{"role": "user", "content": parts}]).messages[0].content == "one two"


def test_replayed_assistant_message_is_taken_as_the_sdk_returned_it() -> None:
    replayed: dict[str, Any] = {
        "role": "assistant",
        "content": "a",
        "refusal": None,
        "annotations": [],
    }
    turns = [*TURNS, {**replayed, "tool_calls": None}, *TURNS]
    assert asked(messages=turns).messages[1] == Message("assistant", "a")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("n", True),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"1": 2}),
        ("modalities", ["audio"]),
    ],
)
def test_what_no_road_honours_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        asked(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [("tools", []), ("n", 1), ("logprobs", False), ("tool_choice", "auto"), ("store", None)],
)
def test_what_asks_for_nothing_special_is_dropped(name: str, value: Any) -> None:
    assert asked(**{name: value}) == asked()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("store", True),
        ("verbosity", "low"),
        ("prompt_cache_key", "k"),
        ("prediction", {"type": "content", "content": "x"}),
        ("service_tier", "flex"),
        ("safety_identifier", "someone"),
    ],
)
def test_a_hint_is_left_out_and_said_to_be(name: str, value: Any) -> None:
    assert asked(**{name: value}) == replace(asked(), adapted=(name,))
    assert asked(**{name: None}) == asked()


def test_two_rival_bounds_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        asked(max_tokens=5, max_completion_tokens=6)


def test_surrogate_halves_are_refused_everywhere() -> None:
    half = "\ud800"
    with pytest.raises(InvalidRequest):
        asked(messages=[{"role": "user", "content": half}])
    with pytest.raises(InvalidRequest):
        asked(stop=[half])
    with pytest.raises(InvalidRequest):
        asked(response_format={"type": "json_schema", "json_schema": {"name": half, "schema": {}}})
    for document in (
        {"id": half, "text": "x"},
        {"id": "x", "text": half},
        {"id": "x", "text": "x", "title": half},
        {"id": "x", "text": "x", "metadata": {"k": half}},
        {"id": "x", "text": "x", "metadata": {half: "v"}},
    ):
        with pytest.raises(InvalidRequest):
            IngestRequest.model_validate({"documents": [document]})


def test_unknown_model_lists_those_that_exist() -> None:
    with pytest.raises(ModelNotFound) as caught:
        resolve("gpt-4.1")
    assert all(name in caught.value.message for name in MODELS)
