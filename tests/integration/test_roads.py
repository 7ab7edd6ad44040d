"""One question per road, asked with the official OpenAI SDK."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import openai
import pytest

from tests.integration.conftest import Stack

REVENUE = "What was our revenue in the last 15 minutes?"
FIGURE = "/v1/collections/default/documents/live-revenue-15m"


def freshly_written(stack: Stack) -> datetime:
    """When the figure was written, as soon as that is at most five seconds ago.

    The feed writes every three; after a stall it takes a moment to be back.
    """
    with stack.http() as http:
        while True:
            written = datetime.fromisoformat(http.get(FIGURE).json()["as_of"])
            if (datetime.now(UTC) - written).total_seconds() <= 5:
                return written
            time.sleep(0.2)


def test_live_figure_is_quoted_and_cited_while_it_is_fresh(stack: Stack) -> None:
    written = freshly_written(stack)
    answer = stack.openai().chat.completions.with_raw_response.create(
        model="trivium/auto", messages=[{"role": "user", "content": REVENUE}]
    )
    completion = answer.parse()
    message = completion.choices[0].message
    assert answer.headers["x-trivium-route"] == "knowledge"
    assert message.annotations, message.content
    citation = message.annotations[0].url_citation
    as_of = datetime.fromisoformat(citation.model_dump()["as_of"])
    age = (datetime.now(UTC) - as_of).total_seconds()
    assert as_of >= written
    assert age <= 10, f"the figure is {age:.1f} s old when its answer arrives"

    assert message.content is not None
    cited = message.content[citation.start_index : citation.end_index]
    assert "EUR" in cited
    with stack.http() as http:
        document = http.get(citation.url).json()
    assert document["id"] == "live-revenue-15m"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("How many days do customers have to return unused goods?", "60 days"),
        ("How long is the gift card valid?", "years"),
    ],
)
def test_handbook_facts_are_quoted(stack: Stack, query: str, expected: str) -> None:
    completion = stack.openai().chat.completions.create(
        model="trivium/knowledge", messages=[{"role": "user", "content": query}]
    )
    message = completion.choices[0].message
    assert expected in (message.content or ""), message.content
    assert message.annotations


def test_the_id_of_a_request_is_said_once_and_judges_its_answer(stack: Stack) -> None:
    """Serve's proxy says it as well."""
    answer = stack.openai().chat.completions.with_raw_response.create(
        model="trivium/knowledge", messages=[{"role": "user", "content": REVENUE}]
    )
    request_id = answer.headers["x-request-id"]
    assert answer.parse().id == f"chatcmpl-{request_id}"
    with stack.http() as http:
        judged = http.post("/v1/feedback", json={"id": request_id, "good": True})
        assert judged.status_code == 200
        named = http.get("/v1/models", headers={"x-request-id": "mine"})
        assert named.headers["x-request-id"] == "mine"


def test_expert_road_costs_less_than_the_baseline(stack: Stack) -> None:
    answer = stack.openai().chat.completions.with_raw_response.create(
        model="trivium/auto",
        messages=[{"role": "user", "content": "Rewrite politely: send me the report now."}],
        max_completion_tokens=24,
    )
    usage = answer.parse().usage
    assert answer.headers["x-trivium-route"] == "expert"
    assert answer.headers["x-trivium-model"] == "smollm2-135m-instruct"
    assert usage is not None
    assert 0 < usage.completion_tokens <= 24
    assert float(answer.headers["x-trivium-cost-usd"]) > 0
    assert float(answer.headers["x-trivium-cost-usd"]) < float(
        answer.headers["x-trivium-baseline-usd"]
    )
    assert usage.model_dump()["cost"] == pytest.approx(
        float(answer.headers["x-trivium-cost-usd"]), abs=1e-9
    )


def test_bound_above_the_context_is_what_the_context_holds(stack: Stack) -> None:
    for most, adapted in ((4096, None), (100_000, "max_completion_tokens")):
        answer = stack.openai().chat.completions.with_raw_response.create(
            model="trivium/expert",
            messages=[{"role": "user", "content": "Say yes. " * 600}],
            max_completion_tokens=most,
            stop=[" "],
        )
        assert answer.headers.get("x-trivium-adapted") == adapted


@pytest.mark.parametrize("model", ["trivium/knowledge", "trivium/auto"])
def test_facts_come_in_the_form_that_was_asked_for(stack: Stack, model: str) -> None:
    asked = "How many days do customers have to return unused goods?"
    schema = {
        "type": "object",
        "properties": {"days": {"type": "integer", "minimum": 0, "maximum": 999}},
        "required": ["days"],
        "additionalProperties": False,
    }
    answer = stack.openai().chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": asked}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "days", "schema": schema, "strict": True},
        },
        max_completion_tokens=24,
    )
    (choice,) = answer.choices
    if choice.message.refusal:
        assert choice.message.content is None
        return
    assert choice.finish_reason == "stop"
    assert isinstance(json.loads(choice.message.content or "")["days"], int)
    assert choice.message.annotations


def test_quote_ends_at_the_callers_bound(stack: Stack) -> None:
    answer = stack.openai().chat.completions.create(
        model="trivium/knowledge",
        messages=[{"role": "user", "content": "What is our return window?"}],
        max_completion_tokens=3,
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    assert 0 < len(choice.message.content or "") <= 12


def test_frontier_without_a_key_says_so(stack: Stack) -> None:
    answer = stack.openai().chat.completions.with_raw_response.create(
        model="trivium/auto",
        messages=[
            {
                "role": "user",
                "content": "Prove that the sum of two odd numbers is even, step by step, and "
                "explain where the argument would fail for three.",
            }
        ],
        max_completion_tokens=16,
    )
    assert answer.headers["x-trivium-route"] == "frontier"
    assert answer.headers["x-trivium-degraded"] == "frontier-not-configured"
    assert answer.parse().choices[0].message.content


def test_stream_arrives_in_pieces_with_usage(stack: Stack) -> None:
    stream = stack.openai().chat.completions.create(
        model="trivium/expert",
        messages=[{"role": "user", "content": "Write four sentences about rain."}],
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=40,
        temperature=0,
    )
    pieces, usage, finish = [], None, None
    for chunk in stream:
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
            finish = chunk.choices[0].finish_reason or finish
        usage = chunk.usage or usage
    assert len([piece for piece in pieces if piece]) > 5, pieces
    assert usage is not None
    assert usage.completion_tokens == 40
    assert finish == "length"


def test_models(stack: Stack) -> None:
    client = stack.openai()
    names = [model.id for model in client.models.list()]
    # An adapter that came along may be listed too.
    roads = [name for name in names if ":" not in name]
    assert roads == ["trivium/auto", "trivium/expert", "trivium/knowledge", "trivium/frontier"]
    assert client.models.retrieve("trivium/auto").owned_by == "trivium"
    with pytest.raises(openai.NotFoundError, match="trivium/expert"):
        client.models.retrieve("gpt-none")


def test_structured_output_is_enforced(stack: Stack) -> None:
    schema = {
        "type": "object",
        "properties": {"sentiment": {"enum": ["good", "bad"]}},
        "required": ["sentiment"],
        "additionalProperties": False,
    }
    completion = stack.openai().chat.completions.create(
        model="trivium/expert",
        messages=[{"role": "user", "content": "Sentiment of: I love this tent."}],
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        max_completion_tokens=40,
    )
    # Compact: a small model that may write whitespace writes little else.
    assert completion.choices[0].message.content in ('{"sentiment":"good"}', '{"sentiment":"bad"}')
