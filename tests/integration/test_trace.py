"""One trace per request, from the caller's own span down to the engine's."""

from __future__ import annotations

import secrets

import pytest

from tests.integration.collector import Span
from tests.integration.conftest import Stack

EXPECTED = {
    "trivium/expert": {
        ("trivium-gateway", "POST /v1/chat/completions"),
        ("trivium-gateway", "invoke_workflow trivium"),
        ("trivium-gateway", "node decide"),
        ("trivium-gateway", "node expert"),
        ("trivium-gateway", "prompt expert"),
        ("trivium-expert", "chat smollm2-135m-instruct"),
    },
    "trivium/knowledge": {
        ("trivium-gateway", "node rewrite"),
        ("trivium-gateway", "node retrieve"),
        ("trivium-retriever", "retrieval default"),
        ("trivium-gateway", "node grade"),
        ("trivium-gateway", "node quote"),
        ("trivium-retriever", "embeddings default"),
    },
    "trivium/auto": {("trivium-router", "route")},
}


@pytest.mark.parametrize("model", EXPECTED)
def test_spans_of_all_processes_form_one_tree(stack: Stack, model: str) -> None:
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    with stack.http() as http:
        response = http.post(
            "/v1/chat/completions",
            json={
                "model": model,
                "messages": [{"role": "user", "content": "What is our return window?"}],
                "max_tokens": 16,
            },
            headers={"traceparent": f"00-{trace_id}-{caller}-01"},
        )
    assert response.status_code == 200

    def enough(spans: list[Span]) -> bool:
        names = {(span.service, span.name) for span in spans}
        known = {span.span_id for span in spans} | {caller}
        return (
            EXPECTED[model] <= names
            and any(span.name == "llm_request" for span in spans) == (model == "trivium/expert")
            # No span hangs in the air: each has a parent in this trace.
            and all(span.parent_id in known for span in spans)
        )

    spans = stack.collector.wait_for(trace_id, enough)
    root = next(span for span in spans if span.name == "POST /v1/chat/completions")
    assert root.parent_id == caller
    by = {span.name: span.attributes.get("trivium.node.by") for span in spans}
    assert by["node decide"] == "encoder"
    assert by.get("node quote", "rule") == "rule"
    assert by.get("node expert", "model") == "model"
    for span in spans:
        content = " ".join(str(value) for value in span.attributes.values())
        assert "return window" not in content, f"{span.name} carries the prompt"


def test_model_calls_follow_the_genai_conventions(stack: Stack) -> None:
    trace_id = secrets.token_hex(16)
    with stack.http() as http:
        http.post(
            "/v1/chat/completions",
            json={
                "model": "trivium/expert",
                "messages": [{"role": "user", "content": "Say hello."}],
                "max_tokens": 4,
            },
            headers={"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"},
        )
    name = "chat smollm2-135m-instruct"
    spans = stack.collector.wait_for(trace_id, lambda found: any(s.name == name for s in found))
    chat = next(span for span in spans if span.name == name).attributes
    assert chat["gen_ai.operation.name"] == "chat"
    assert chat["gen_ai.provider.name"] == "vllm"
    assert chat["gen_ai.request.model"] == "smollm2-135m-instruct"
    assert chat["gen_ai.usage.output_tokens"] <= 4
    assert chat["gen_ai.usage.input_tokens"] > 0
