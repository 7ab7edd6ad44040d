"""Web pages of other origins: none by default; those of the settings, before a key is asked."""

from __future__ import annotations

import asyncio
import hashlib

import httpx
import pytest

from serve_app.domain import Route
from serve_app.errors import SettingsError, Unavailable
from serve_app.settings import from_args
from tests.fixtures import FixedRouter, House, ScriptedModel, decision
from tests.gateway.test_http import CHAT, TURNS, client_of

pytestmark = pytest.mark.usefixtures("clean_environment")

PAGE = "http://localhost:5173"
KEY = {"name": "ann", "sha256": hashlib.sha256(b"secret").hexdigest()}
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


def closed(*origins: str) -> House:
    return House(gateway={"api_keys": [KEY], "cors_origins": origins})


async def preflight(house: House, **headers: str) -> httpx.Response:
    async with client_of(house) as client:
        return await client.options(CHAT, headers={**PREFLIGHT, **headers})


async def test_no_page_is_let_in_by_default() -> None:
    answer = await preflight(closed())
    assert answer.status_code >= 400
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_preflight_is_answered_before_a_key_is_asked_for() -> None:
    answer = await preflight(closed(PAGE))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"]
    for name in ("authorization", "content-type", "x-stainless-os"):
        assert name in allowed
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["x-request-id"]
    assert "origin" in answer.headers["vary"].lower()


async def test_preflight_of_another_page_is_refused() -> None:
    answer = await preflight(closed(PAGE), origin="https://evil.example")
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("key", ["secret", "wrong"])
async def test_page_may_read_what_the_answer_says_beside_its_body(key: str) -> None:
    headers = {"origin": PAGE, "authorization": f"Bearer {key}"}
    asked = {"messages": TURNS, "max_completion_tokens": 10**6}  # more than there are
    house = House(
        gateway={"api_keys": [KEY], "cors_origins": (PAGE,)},
        router=FixedRouter(decision(Route.FRONTIER)),
        frontier=ScriptedModel(Unavailable("away")),
    )
    async with client_of(house) as client:
        answer = await client.post(CHAT, json=asked, headers=headers)
    assert answer.status_code == (200 if key == "secret" else 401)
    # Of a refusal too: else the page cannot say why.
    assert answer.headers["access-control-allow-origin"] == PAGE
    exposed = {each.strip() for each in answer.headers["access-control-expose-headers"].split(",")}
    ours = {name for name in answer.headers if name.startswith("x-trivium-")}
    assert {"x-request-id", "retry-after", "x-should-retry"} | ours <= exposed
    if key == "secret":
        assert {"x-trivium-adapted", "x-trivium-degraded"} <= ours


async def test_page_may_read_that_we_failed() -> None:
    house = House(
        gateway={"cors_origins": [PAGE]}, expert=ScriptedModel(RuntimeError("x")), fallbacks={}
    )
    async with client_of(house) as client:
        answer = await client.post(CHAT, json={"messages": TURNS}, headers={"origin": PAGE})
    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == PAGE


async def test_every_page_may_be_let_in_but_never_with_credentials() -> None:
    answer = await preflight(closed("*"))
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["", "app.example.com", "https://app.example.com/", "https://*.example.com", "null"]
)
def test_what_is_no_origin_is_named(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"cors_origins"):
        from_args({"gateway": {"cors_origins": [origin]}})


def test_streams_are_not_held_back() -> None:
    async def first() -> bytes:
        house = House(gateway={"cors_origins": [PAGE]})
        async with (
            client_of(house) as client,
            client.stream(
                "POST", CHAT, json={"messages": TURNS, "stream": True}, headers={"origin": PAGE}
            ) as answer,
        ):
            assert answer.headers["access-control-allow-origin"] == PAGE
            return await anext(answer.aiter_bytes())

    assert b"data:" in asyncio.run(first())
