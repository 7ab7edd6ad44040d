"""Every answer of the gateway that is not a stream, through a real ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.domain import Delta, Lost, Message, Route
from serve_app.errors import (
    ContextLengthExceeded,
    FrontierNotConfigured,
    FrontierRefused,
    FrontierResting,
    InternalError,
    NotFound,
    Overloaded,
    Unavailable,
    UnprocessableDocument,
)
from serve_app.gateway.schema import MODELS
from tests.fixtures import (
    QUOTES,
    FixedKnowledge,
    FixedRouter,
    House,
    ScriptedModel,
    chunk,
    decision,
)

pytestmark = pytest.mark.usefixtures("clean_environment")

CHAT = "/v1/chat/completions"
DOCUMENTS = "/v1/collections/default/documents"
TURNS = [{"role": "user", "content": "What is the return window?"}]
TOOLS = [{"type": "function", "function": {"name": "weather"}}]
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
SHOWN = [{"role": "user", "content": [PICTURE]}]
SOURCE = chunk("Customers may return goods within 30 days.", "ret/urns & co", as_of="2026-01-01")


@contextlib.asynccontextmanager
async def client_of(house: House, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(house.app, **options)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def send(house: House, method: str, path: str, **request: Any) -> httpx.Response:
    async with client_of(house, raise_app_exceptions=False) as client:
        return await client.request(method, path, **request)


def refusal(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of a response, after checking that it is exactly OpenAI's envelope."""
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert (response.status_code, error["code"]) == (status, code), body
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    return error


async def test_answer_is_a_chat_completion_with_cost() -> None:
    house = House()
    response = await send(house, "POST", CHAT, json={"messages": TURNS, "model": "trivium/auto"})
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "trivium/auto"
    assert body["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello there.", "refusal": None}
    assert choice["finish_reason"] == "stop"
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, 2)
    assert usage["total_tokens"] == 12
    assert usage["cost"] == pytest.approx((10 * 0.1 + 2 * 0.2) / 1e6)
    asked = len("".join(turn["content"] for turn in TURNS).encode()) // 4
    details = usage["cost_details"]
    assert details["baseline"] == pytest.approx(((asked + 1000) * 2 + 3 * 8) / 1e6, abs=1e-9)
    assert details["all_frontier"] == pytest.approx((asked * 2 + 3 * 8) / 1e6, abs=1e-9)
    assert float(response.headers["x-trivium-cost-usd"]) == pytest.approx(usage["cost"])
    assert response.headers["x-trivium-route"] == "expert"
    assert response.headers["x-trivium-confidence"] == "0.800"
    assert response.headers["x-trivium-router-ms"] == "1.50"
    assert "x-trivium-degraded" not in response.headers
    assert house.metrics.outcomes == ["ok"]


async def test_citations_are_annotations_that_can_be_followed() -> None:
    house = House(
        router=FixedRouter(decision(Route.KNOWLEDGE)),
        knowledge=FixedKnowledge([SOURCE]),
        expert=ScriptedModel("Goods may be returned within 30 days."),
    )
    async with client_of(house) as client:
        body = (await client.post(CHAT, json={"messages": TURNS})).json()
        message = body["choices"][0]["message"]
        (annotation,) = message["annotations"]
        assert annotation["type"] == "url_citation"
        citation = annotation["url_citation"]
        assert message["content"][citation["start_index"] : citation["end_index"]] == (
            "Goods may be returned within 30 days."
        )
        assert citation["as_of"] == "2026-01-01"
        document = (await client.get(citation["url"])).json()
    assert document["id"] == SOURCE.document_id
    assert document["chunks"][0]["text"] == SOURCE.text


async def test_quote_costs_what_finding_it_does_and_names_no_model() -> None:
    house = House(
        router=FixedRouter(decision(Route.KNOWLEDGE)),
        knowledge=FixedKnowledge([SOURCE]),
        roles=QUOTES,
    )
    response = await send(house, "POST", CHAT, json={"messages": TURNS})
    usage = response.json()["usage"]
    assert usage["total_tokens"] == 0
    assert usage["cost_details"]["by_purpose"] == {"embed": usage["cost"]}
    assert 0 < usage["cost"] < 1e-6
    # A RAG-only stack would have had a model read what it retrieved.
    asked = len("".join(turn["content"] for turn in TURNS).encode()) // 4
    read = asked + len(SOURCE.text) // 4
    said = len(response.json()["choices"][0]["message"]["content"]) // 4
    baseline = (read * 2 + said * 8) / 1e6
    assert usage["cost_details"]["baseline"] == pytest.approx(baseline, abs=1e-9)
    assert float(response.headers["x-trivium-cost-usd"]) == usage["cost"]
    assert "x-trivium-model" not in response.headers
    assert house.metrics.calls == []


async def test_frontier_that_is_not_configured_is_stood_in_for() -> None:
    house = House(frontier=ScriptedModel(FrontierNotConfigured("none")))
    body = {"messages": TURNS, "model": "trivium/frontier"}
    response = await send(house, "POST", CHAT, json=body)
    assert response.json()["choices"][0]["message"]["content"] == "Hello there."
    assert response.headers["x-trivium-degraded"] == "frontier-not-configured"
    assert house.metrics.degraded == [True]


async def test_road_that_breaks_before_anything_was_sent_is_stood_in_for() -> None:
    house = House(expert=ScriptedModel("Hel", Unavailable("died")))
    response = await send(house, "POST", CHAT, json={"messages": TURNS})
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "Deep thought."


@pytest.mark.parametrize(
    ("given", "kept"), [("my-id_1.2", True), ("no spaces", False), ("x" * 200, False)]
)
async def test_request_id_of_the_caller_is_kept_when_it_is_sane(given: str, kept: bool) -> None:
    response = await send(House(), "GET", "/v1/models", headers={"x-request-id": given})
    assert (response.headers["x-request-id"] == given) is kept


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{'a': 1}", b'{"messages": [}', b"\xff\xfe", b'{"a": "\xff"}', b"[" * 100_000],
)
async def test_body_that_is_not_json_is_refused(content: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = await send(House(), "POST", CHAT, content=content, headers=headers)
    refusal(response, 400, "invalid_value")


@pytest.mark.parametrize("body", [[], "text", 7, None, True, [TURNS]])
async def test_body_that_is_not_an_object_is_refused(body: Any) -> None:
    headers = {"content-type": "application/json"}
    response = await send(House(), "POST", CHAT, content=json.dumps(body), headers=headers)
    assert "JSON object" in refusal(response, 400, "invalid_value")["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_other_content_types_are_refused(kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    content = json.dumps({"messages": TURNS}).encode()
    response = await send(House(), "POST", CHAT, content=content, headers=headers)
    assert "application/json" in refusal(response, 400, "invalid_value")["message"]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": None}, "invalid_value", "messages"),
        ({"messages": "hi"}, "invalid_value", "messages"),
        (
            {"messages": [{"role": "system", "content": "x"}]},
            "invalid_value",
            "messages",
        ),
        ({"messages": [{"role": "user", "content": " "}]}, "invalid_value", "messages"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "invalid_value",
            "messages[0].tool_call_id",
        ),
        ({"messages": [*TURNS, {"role": "user"}]}, "invalid_value", "messages[1].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "invalid_value", "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "invalid_value",
            "messages[0].content",
        ),
        ({"messages": [{**TURNS[0], "nme": "x"}]}, "unknown_parameter", "messages[0].nme"),
        ({"temprature": 1}, "unknown_parameter", "temprature"),
        ({"\ud800": 1}, "invalid_value", None),
        ({"metadata": {"\ud800": 1}}, "invalid_value", None),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"temperature": float("nan")}, "invalid_value", "temperature"),
        ({"max_completion_tokens": 0}, "invalid_value", "max_completion_tokens"),
        ({"stop": ["a"] * 5}, "invalid_value", "stop"),
        ({"collection": "No Such"}, "invalid_value", "collection"),
        ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
        ({"tools": [{}]}, "invalid_value", "tools[0]"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"model": "trivium/expert", "tools": TOOLS}, "unsupported_parameter", "tools"),
        ({"model": "trivium/knowledge", "messages": SHOWN}, "unsupported_parameter", "messages"),
        ({"messages": [{**SHOWN[0], "role": "system"}]}, "invalid_value", "messages[0].content"),
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"logprobs": True}, "unsupported_parameter", "logprobs"),
    ],
)
async def test_bad_parameter_is_refused_by_name(
    fields: dict[str, Any], code: str, param: str | None
) -> None:
    house = House()
    content = json.dumps({"messages": TURNS, **fields})
    headers = {"content-type": "application/json"}
    response = await send(house, "POST", CHAT, content=content, headers=headers)
    error = refusal(response, 400, code)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert str(error["param"]).startswith(param)
    assert house.expert.asked == []


async def test_deeply_nested_schema_is_answered_or_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(400):
        schema = {"items": schema}
    form = {"type": "json_schema", "json_schema": {"name": "deep", "schema": schema}}
    response = await send(House(), "POST", CHAT, json={"messages": TURNS, "response_format": form})
    assert response.status_code in (200, 400)


async def test_unknown_model_lists_those_that_exist() -> None:
    response = await send(House(), "POST", CHAT, json={"messages": TURNS, "model": "gpt-4.1"})
    error = refusal(response, 404, "model_not_found")
    assert error["param"] == "model"
    assert all(name in error["message"] for name in MODELS)


async def test_models_can_be_listed_and_fetched() -> None:
    listed = (await send(House(), "GET", "/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == list(MODELS)
    one = (await send(House(), "GET", "/v1/models/trivium/expert")).json()
    assert (one["id"], one["object"]) == ("trivium/expert", "model")
    refusal(await send(House(), "GET", "/v1/models/gpt"), 404, "model_not_found")


async def test_a_model_may_be_named_without_a_slash() -> None:
    house = House()
    for name in ("trivium-knowledge", "trivium/knowledge"):
        answer = await send(house, "POST", CHAT, json={"messages": TURNS, "model": name})
        assert (answer.status_code, answer.headers["x-trivium-route"]) == (200, "knowledge")
        assert answer.json()["model"] == "trivium/knowledge"
    one = (await send(house, "GET", "/v1/models/trivium-expert")).json()
    assert one["id"] == "trivium/expert"
    refusal(
        await send(house, "POST", CHAT, json={"messages": TURNS, "model": "trivium-gpt"}),
        404,
        "model_not_found",
    )


async def test_declared_body_above_the_bound_is_refused() -> None:
    house = House(gateway={"max_body_bytes": 1024})
    response = await send(house, "POST", CHAT, content=b"x" * 1025)
    assert "1024" in refusal(response, 413, "body_too_large")["message"]


@pytest.mark.parametrize("path", [CHAT, "/v1/route"])
async def test_chunked_body_above_the_bound_is_refused(path: str) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield b" " * 100

    house = House(gateway={"max_body_bytes": 1024})
    headers = {"content-type": "application/json"}
    response = await send(house, "POST", path, content=body(), headers=headers)
    refusal(response, 413, "body_too_large")
    assert sent < 100_000


async def test_unknown_path_and_method_are_told() -> None:
    error = refusal(await send(House(), "GET", "/v1/completions"), 404, "not_found")
    assert "/v1/completions" in error["message"]
    response = await send(House(), "GET", CHAT)
    assert "GET" in refusal(response, 405, "invalid_value")["message"]
    assert "POST" in response.headers["allow"]


async def test_prompt_beyond_the_context_says_so() -> None:
    too_long = ContextLengthExceeded("the prompt is too long", param="messages")
    for stream in (False, True):
        house = House(expert=ScriptedModel(too_long))
        asked = {"model": "trivium/expert", "messages": TURNS, "stream": stream}
        response = await send(house, "POST", CHAT, json=asked)
        assert refusal(response, 400, "context_length_exceeded")["param"] == "messages"


KEYS = [
    {"name": "reader", "sha256": hashlib.sha256(b"read").hexdigest(), "tenant": "red"},
    {
        "name": "writer",
        "sha256": hashlib.sha256(b"write").hexdigest(),
        "tenant": "blue",
        "scopes": ["ingest"],
    },
]


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Basic read", "Bearer wrong", "read", "Bearer é"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("POST", "/v1/route"),
        ("GET", "/v1/models"),
        ("PUT", DOCUMENTS),
        ("GET", DOCUMENTS),
        ("DELETE", f"{DOCUMENTS}/x"),
        ("DELETE", "/v1/collections/default"),
        ("POST", "/v1/collections/default/search"),
    ],
)
async def test_nobody_passes_without_a_known_key(
    method: str, path: str, authorization: str | None
) -> None:
    house = House(gateway={"api_keys": KEYS})
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    response = await send(house, method, path, json={"messages": TURNS}, headers=headers)
    refusal(response, 401, "invalid_api_key")


@pytest.mark.parametrize("path", [CHAT, "/v1/route", "/v1/feedback"])
async def test_not_a_byte_is_read_of_a_body_that_comes_without_a_key(path: str) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(2000):
            sent += 1000
            yield b"{" * 1000

    house = House(gateway={"api_keys": KEYS})
    headers = {"content-type": "application/json", "authorization": "Bearer wrong"}
    response = await send(house, "POST", path, content=body(), headers=headers)
    refusal(response, 401, "invalid_api_key")
    assert sent == 0


async def test_too_many_wrong_keys_are_told_when_to_come_back() -> None:
    house = House(gateway={"api_keys": KEYS})
    async with client_of(house) as client:
        for _ in range(20):
            wrong = await client.get("/v1/models", headers={"authorization": "Bearer wrong"})
            refusal(wrong, 401, "invalid_api_key")
        wrong = await client.get("/v1/models", headers={"authorization": "Bearer wrong"})
        refusal(wrong, 429, "too_many_failures")
        assert 1 <= int(wrong.headers["retry-after"]) <= 2
        good = await client.get("/v1/models", headers={"authorization": "Bearer read"})
        assert good.status_code == 200


async def test_keys_open_what_their_scopes_say_and_choose_the_tenant() -> None:
    house = House(
        gateway={"api_keys": KEYS},
        router=FixedRouter(decision(Route.KNOWLEDGE)),
        knowledge=FixedKnowledge([SOURCE]),
    )
    reader, writer = {"authorization": "Bearer read"}, {"authorization": "bearer write"}
    documents = {"documents": [{"id": "x", "text": "y"}]}
    chat = {"messages": TURNS, "user": "blue", "metadata": {"tenant": "blue"}}
    async with client_of(house) as client:
        assert (await client.post(CHAT, json=chat, headers=reader)).status_code == 200
        refusal(await client.post(CHAT, json=chat, headers=writer), 403, "insufficient_scope")
        refused = await client.put(DOCUMENTS, json=documents, headers=reader)
        refusal(refused, 403, "insufficient_scope")
        assert (await client.put(DOCUMENTS, json=documents, headers=writer)).status_code == 200
    assert house.knowledge.tenants == ["red", "blue"]


async def test_probes_need_no_key() -> None:
    house = House(gateway={"api_keys": KEYS})
    for path in ("/healthz", "/"):
        assert (await send(house, "GET", path)).status_code == 200
    assert (await send(house, "GET", "/readyz")).status_code == 503


@pytest.mark.parametrize("stream", [False, True])
async def test_full_house_says_when_to_try_again(stream: bool) -> None:
    go_on = asyncio.Event()
    house = House(expert=ScriptedModel(go_on, "late"), gateway={"max_concurrent_requests": 1})
    body = {"messages": TURNS, "stream": stream}
    async with client_of(house) as client:
        first = asyncio.create_task(client.post(CHAT, json=body))
        await house.expert.started.wait()
        response = await client.post(CHAT, json=body)
        refusal(response, 429, "overloaded")
        assert response.headers["retry-after"] == "1"
        assert response.headers["retry-after-ms"] == "1000"
        go_on.set()
        assert (await first).status_code == 200
        assert (await client.post(CHAT, json=body)).status_code == 200


async def test_busy_roads_pass_on_when_to_try_again() -> None:
    full = Overloaded("the expert road is at its limit", retry_after_s=2.5)
    house = House(expert=ScriptedModel(full), frontier=ScriptedModel(full))
    response = await send(house, "POST", CHAT, json={"messages": TURNS})
    refusal(response, 429, "overloaded")
    assert response.headers["retry-after"] == "3"


async def test_document_that_cannot_be_processed_is_named() -> None:
    error = UnprocessableDocument("documents[0].text holds no text", param="documents[0].text")
    house = House(knowledge=FixedKnowledge(error))
    response = await send(house, "PUT", DOCUMENTS, json={"documents": [{"id": "x", "text": "y"}]})
    assert refusal(response, 422, "unprocessable_document")["param"] == "documents[0].text"


@pytest.mark.parametrize(
    "documents",
    [[], [{"id": "", "text": "x"}], [{"text": "x"}], [{"id": "x"}], [{"id": "x", "text": 7}], None],
)
async def test_documents_out_of_shape_are_refused(documents: Any) -> None:
    response = await send(House(), "PUT", DOCUMENTS, json={"documents": documents})
    assert str(refusal(response, 400, "invalid_value")["param"]).startswith("documents")


async def test_collection_name_out_of_shape_is_refused_by_name() -> None:
    response = await send(House(), "GET", "/v1/collections/No!/documents")
    assert refusal(response, 400, "invalid_value")["param"] == "collection"


async def test_missing_document_is_not_found() -> None:
    house = House(knowledge=FixedKnowledge(NotFound("there is no document 'x'")))
    for method in ("GET", "DELETE"):
        refusal(await send(house, method, f"{DOCUMENTS}/x"), 404, "not_found")


@pytest.mark.parametrize("stream", [False, True])
async def test_nobody_there_is_503(stream: bool) -> None:
    down = Unavailable("the road is restarting", retry_after_s=2)
    house = House(expert=ScriptedModel(down), frontier=ScriptedModel(down))
    response = await send(house, "POST", CHAT, json={"messages": TURNS, "stream": stream})
    error = refusal(response, 503, "service_unavailable")
    assert error["type"] == "service_unavailable_error"
    assert response.headers["retry-after"] == "2"
    assert house.metrics.outcomes == ["failed"]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_nobody_foresaw_hides_its_insides(stream: bool) -> None:
    house = House(expert=ScriptedModel(ZeroDivisionError("/srv/secret.py: password=1234")))
    response = await send(house, "POST", CHAT, json={"messages": TURNS, "stream": stream})
    error = refusal(response, 500, "internal_error")
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in error["message"]
    assert house.metrics.outcomes == ["failed"]


async def test_deadline_of_our_own_machines_may_be_tried_again() -> None:
    house = House(expert=ScriptedModel(asyncio.Event()), gateway={"request_timeout_s": 0.2})
    response = await send(house, "POST", CHAT, json={"messages": TURNS})
    refusal(response, 503, "deadline_exceeded")
    assert response.headers["x-should-retry"] == "true"
    assert house.expert.running == 0


NOT_BOUGHT = [
    FrontierNotConfigured("no key"),
    FrontierRefused("a wrong key"),
    FrontierResting("it failed too often", retry_after_s=3.0),
    Overloaded("the provider is full", retry_after_s=3.0),
    Unavailable("nobody takes the connection"),
]


@pytest.mark.parametrize("error", NOT_BOUGHT)
async def test_who_was_turned_away_may_try_again(error: Exception) -> None:
    house = House(
        router=FixedRouter(decision(Route.FRONTIER)), frontier=ScriptedModel(error), fallbacks={}
    )
    response = await send(house, "POST", CHAT, json={"messages": TURNS})
    assert response.status_code in (429, 503)
    assert response.headers["x-should-retry"] == "true"


async def test_road_that_takes_over_has_paid_for_the_first_one_too() -> None:
    house = House(
        router=FixedRouter(decision(Route.FRONTIER)),
        frontier=ScriptedModel(
            Delta(lost=(Lost(again=False),)), Unavailable("the connection broke")
        ),
        expert=ScriptedModel(Unavailable("restarting", retry_after_s=2.0)),
    )
    response = await send(house, "POST", CHAT, json={"messages": TURNS})
    refusal(response, 503, "service_unavailable")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("unit", [{"tokens": 5}, {"usd": "0.000000001"}, {"requests": 0}])
async def test_what_never_fits_is_told_that_waiting_does_not_help(unit: dict[str, Any]) -> None:
    limits = [{"of": "tenant", "per": "minute", **unit}]
    house = House(ledger={"limits": limits, "at_limit": "refuse"})
    response = await send(house, "POST", CHAT, json={"messages": TURNS})
    error = refusal(response, 429, "budget_exceeded")
    assert "waiting does not help" in error["message"]
    assert "retry-after" not in response.headers
    assert "retry-after-ms" not in response.headers
    assert response.headers["x-should-retry"] == "false"


async def test_decision_alone_has_its_scores() -> None:
    house = House()
    response = await send(house, "POST", "/v1/route", json={"query": "stock?"})
    body = response.json()
    assert body["route"] == "expert"
    assert body["scores"] == pytest.approx({"expert": 0.8, "knowledge": 0.1, "frontier": 0.1})
    assert body["stage"] == "1"
    turns = [{"role": "user", "content": "first"}, {"role": "user", "content": "last"}]
    await send(house, "POST", "/v1/route", json={"messages": turns})
    assert house.router.asked == [["stock?"], ["first", "last"]]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": ""},
        {"query": " \n"},
        {"query": "x", "messages": TURNS},
        {"messages": [{"role": "system", "content": "x"}]},
    ],
)
async def test_decision_on_nothing_is_refused(body: dict[str, Any]) -> None:
    refusal(await send(House(), "POST", "/v1/route", json=body), 400, "invalid_value")


async def test_router_that_is_down_cannot_decide() -> None:
    house = House(router=FixedRouter(InternalError("the router road failed")))
    refusal(await send(house, "POST", "/v1/route", json={"query": "x"}), 500, "internal_error")


async def test_search_shows_where_hits_can_be_read() -> None:
    house = House(knowledge=FixedKnowledge([SOURCE]))
    path = "/v1/collections/hr/search"
    (hit,) = (await send(house, "POST", path, json={"query": "returns"})).json()["data"]
    assert hit["url"] == "/v1/collections/hr/documents/ret%2Furns%20%26%20co"
    assert hit["relevance"] == SOURCE.relevance
    response = await send(house, "POST", path, json={"query": "x", "mode": "fuzzy"})
    assert refusal(response, 400, "invalid_value")["param"] == "mode"


async def test_ingest_reports_and_titles_default_to_ids() -> None:
    house = House()
    documents = [{"id": "a", "text": "x", "metadata": {"as_of": "2026", "gone": None}}]
    response = await send(house, "PUT", DOCUMENTS, json={"documents": documents})
    assert response.json()["documents"] == 1
    (document,) = house.knowledge.ingested
    assert (document.title, document.metadata) == ("a", {"as_of": "2026"})


async def test_instructions_of_the_caller_reach_the_model() -> None:
    house = House()
    turns = [{"role": "system", "content": "Be brief."}, *TURNS]
    await send(house, "POST", CHAT, json={"messages": turns})
    assert house.expert.asked[0].messages[1] == Message("user", TURNS[0]["content"])
