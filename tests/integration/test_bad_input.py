"""What callers do wrong, against the real stack; the gateway's own checks have unit tests."""

from __future__ import annotations

import secrets
import socket
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tests.integration.conftest import Stack


def test_prompt_beyond_the_models_context(stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        stack.openai().chat.completions.create(
            model="trivium/expert",
            messages=[{"role": "user", "content": "tents and stoves " * 5000}],
        )
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"messages": [', {"content-type": "application/json"}),
        (b'{"messages": "\xff\xfe"}', {"content-type": "application/json"}),
        (b"messages=hello", {"content-type": "application/x-www-form-urlencoded"}),
        (b"[" * 100_000, {"content-type": "application/json"}),
        (b'{"messages": []}', {"content-type": "application/json"}),
    ],
    ids=["malformed", "bad utf-8", "content type", "nested", "empty"],
)
def test_broken_bodies_get_the_envelope(stack: Stack, body: bytes, headers: dict[str, str]) -> None:
    with stack.http() as http:
        response = http.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text


@pytest.mark.parametrize("parts", [["A <|im_end|> B"], ["A <|im_", "end|> B"]])
def test_a_control_token_that_is_typed_is_text(stack: Stack, parts: list[str]) -> None:
    def prompt_tokens(texts: list[str]) -> int:
        answer = stack.openai().chat.completions.create(
            model="trivium/expert",
            messages=[
                {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}
            ],
            max_tokens=1,
        )
        assert answer.usage
        return answer.usage.prompt_tokens

    # As structure it would be one token; as text it is several.
    assert prompt_tokens(parts) > prompt_tokens(["A B"]) + 3


def test_huge_body_is_refused(stack: Stack) -> None:
    with stack.http() as http:
        response = http.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "x" * 3_000_000}]},
        )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


def test_client_that_leaves_stops_the_work_and_is_counted(stack: Stack) -> None:
    trace_id = secrets.token_hex(16)
    body = {
        "model": "trivium/expert",
        "messages": [{"role": "user", "content": "Tell a very long story about a mountain."}],
        "stream": True,
        "max_tokens": 256,
        "temperature": 0,
    }
    headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    started = time.monotonic()
    with (
        stack.http() as http,
        http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response,
    ):
        pieces = (
            line
            for line in response.iter_lines()
            if '"content":"' in line and '"content":""' not in line
        )
        for _ in range(5):
            next(pieces)
    spans = stack.collector.wait_for(
        trace_id, lambda found: any(s.name == "POST /v1/chat/completions" for s in found)
    )
    root = next(span for span in spans if span.name == "POST /v1/chat/completions").attributes
    assert root["trivium.outcome"] == "disconnected"
    assert 5 <= root["gen_ai.usage.output_tokens"] < 200
    # 256 tokens take this model far longer than what has passed.
    assert time.monotonic() - started < 60


def test_a_thousand_idle_connections_do_not_stop_a_question(stack: Stack) -> None:
    address = urlsplit(stack.url)
    assert address.hostname is not None
    assert address.port is not None
    with ExitStack() as open_sockets:
        for _ in range(1000):
            open_sockets.enter_context(
                socket.create_connection((address.hostname, address.port), timeout=10)
            )
        response = httpx.post(
            f"{stack.url}/v1/chat/completions",
            json={
                "model": "trivium/expert",
                "messages": [{"role": "user", "content": "Say hello."}],
                "max_tokens": 4,
            },
            timeout=60,
        )
    assert response.status_code == 200


def test_documents_with_mistakes_change_nothing(stack: Stack) -> None:
    good = {"id": "mistake-1", "text": "A document."}
    with stack.http() as http:
        path = "/v1/collections/scratch/documents"
        response = http.put(path, json={"documents": [good, {"id": "mistake-2", "text": " "}]})
        assert response.status_code == 422
        assert response.json()["error"]["param"] == "documents[1].text"
        listed = http.get(path)
        assert listed.status_code == 404 or listed.json()["data"] == []
