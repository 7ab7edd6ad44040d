from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.domain import Delta, Generation, Message, Usage
from serve_app.errors import ContextLengthExceeded, InternalError, InvalidRequest
from serve_app.expert.engine import chat_request, engine_error, parse


def event(**fields: Any) -> str:
    return f"data: {json.dumps(fields)}"


def choice(delta: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "finish_reason": finish}]


def test_text_and_running_usage_are_read() -> None:
    line = event(
        choices=choice({"content": "Hé"}),
        usage={
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    )
    assert parse(line) == Delta("Hé", None, Usage(9, 2, 4))


def test_log_probabilities_are_read() -> None:
    told = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -2.0}]}
    both = choice({"content": "ab"})
    assert parse(event(choices=[{**both[0], "logprobs": told}])) == Delta(
        "ab", logprobs=(-0.5, -2.0)
    )
    assert parse(event(choices=[{**both[0], "logprobs": None}])) == Delta("ab")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("stop", "stop"), ("length", "length"), ("abort", "stop"), (None, None)],
)
def test_finish_reason_is_translated(theirs: str | None, ours: str | None) -> None:
    delta = parse(event(choices=choice({}, theirs), usage=None))
    assert delta is not None
    assert delta.finish_reason == ours


def test_usage_alone_is_read() -> None:
    line = event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": None})
    assert parse(line) == Delta(usage=Usage(9, 0))


@pytest.mark.parametrize("line", ["", "\n", "data: [DONE]", "data: [DONE]\n\n", "data: "])
def test_lines_without_news_are_skipped(line: str) -> None:
    assert parse(line) is None


def test_error_event_is_raised() -> None:
    with pytest.raises(InvalidRequest, match="bad schema"):
        parse(event(error={"message": "bad schema", "code": 400, "param": "response_format"}))


@pytest.mark.parametrize("code", [500, 503, None, 0])
def test_failure_of_the_engine_hides_its_text(code: int | None) -> None:
    error = engine_error({"message": "CUDA error at /home/me/engine.py", "code": code})
    assert isinstance(error, InternalError)
    assert "CUDA" not in error.message


def test_error_code_that_is_a_word_is_understood() -> None:
    error = engine_error({"message": "oops", "code": "internal_error"})
    assert isinstance(error, InternalError)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 9000.",
        "The decoder prompt (length 9000) is longer than the maximum model length of 4096.",
    ],
)
def test_prompt_beyond_the_context_has_its_own_error(message: str) -> None:
    error = engine_error({"message": message, "code": 400})
    assert isinstance(error, ContextLengthExceeded)
    assert error.param == "messages"


@pytest.mark.parametrize(
    ("error", "param"),
    [
        ({"message": "stop cannot contain an empty string."}, "stop"),
        ({"message": "temperature must be at least 0", "param": "temperature"}, "temperature"),
        ({"message": "Invalid grammar specification: no", "param": None}, "response_format"),
        ({"message": "bad", "param": "tool_choice.function.name"}, "tool_choice.function.name"),
        ({"message": "the prompt is empty", "param": "input_tokens"}, "messages"),
        ({"message": "the template refuses it: roles must alternate"}, "messages"),
    ],
)
def test_every_refusal_names_what_the_caller_has_to_change(
    error: dict[str, Any], param: str
) -> None:
    found = engine_error({**error, "code": 400})
    assert isinstance(found, InvalidRequest)
    assert found.param == param


def test_request_asks_for_running_usage_and_knows_no_developer() -> None:
    turns = (Message("developer", "d"), Message("user", "u"), Message("assistant", "a"))
    body = chat_request(Generation(turns, 7, {"temperature": 0.5}), "m")
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant"]
    assert (body["max_tokens"], body["temperature"], body["stream"]) == (7, 0.5, True)
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
