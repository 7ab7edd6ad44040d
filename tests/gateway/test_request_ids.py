"""Exactly one id in every response, with Ray Serve's own proxy around the application."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.http_util import (
    _apply_middlewares,
    call_function_from_import_path,
    validate_http_proxy_callback_return,
)
from starlette.datastructures import Headers

from serve_app.cli.local import RAY_ENVIRONMENT
from serve_app.gateway.request_ids import SaidOnce, chosen
from tests.fixtures import House, ScriptedModel
from tests.gateway.test_http import CHAT, TURNS

pytestmark = pytest.mark.usefixtures("clean_environment")

SENT: list[tuple[str, list[bytes]]] = [
    ("none", []),
    ("mine", [b"my-id_1.2"]),
    ("a blank in it", [b"a b"]),
    ("empty", [b""]),
    ("too long", [b"x" * 200]),
    ("no ASCII", ["é".encode()]),
    ("two", [b"one", b"two"]),
    ("twice the same", [b"one", b"one"]),
]
ASKED: list[tuple[str, str, Any, int]] = [
    ("POST", CHAT, {"messages": TURNS}, 200),
    ("POST", CHAT, {"messages": TURNS, "stream": True}, 200),
    ("POST", CHAT, {}, 400),
    ("POST", CHAT, {"messages": [{"role": "user", "content": "x"}], "model": "no"}, 404),
    ("GET", "/nowhere", None, 404),
    ("GET", "/healthz", None, 200),
    ("GET", "/docs", None, 200),
]


def behind_the_proxy(app: Any) -> Any:
    """As Serve starts it: the callback of the environment around its own middleware."""
    path = RAY_ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    around = validate_http_proxy_callback_return(call_function_from_import_path(path))
    return _apply_middlewares(SaidOnce(app), around)


async def ids_of(app: Any, method: str, path: str, body: Any, sent: list[bytes]) -> httpx.Response:
    headers = [(b"x-request-id", each) for each in sent]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.request(method, path, json=body, headers=headers)


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("sent", [each for _, each in SENT], ids=[name for name, _ in SENT])
async def test_every_answer_has_exactly_one_id(sent: list[bytes], proxied: bool) -> None:
    house = House()
    app = behind_the_proxy(house.app) if proxied else house.app
    for method, path, body, status in ASKED:
        answer = await ids_of(app, method, path, body, sent)
        assert answer.status_code == status
        (found,) = answer.headers.get_list("x-request-id")
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", found)
        if len(sent) == 1 and sent[0] == b"my-id_1.2":
            assert found == "my-id_1.2"
        if path == CHAT and status == 200 and not body.get("stream"):
            assert answer.json()["id"] == f"chatcmpl-{found}"


@pytest.mark.parametrize("proxied", [False, True])
async def test_what_nobody_foresaw_has_one_too(proxied: bool) -> None:
    house = House(expert=ScriptedModel(ZeroDivisionError()), fallbacks={})
    app = behind_the_proxy(house.app) if proxied else house.app
    answer = await ids_of(app, "POST", CHAT, {"messages": TURNS}, [b"a b"])
    assert answer.status_code == 500
    (found,) = answer.headers.get_list("x-request-id")
    assert found in answer.json()["error"]["message"]


@given(st.lists(st.binary(max_size=140), max_size=3))
def test_an_id_is_sane_whatever_was_sent(sent: list[bytes]) -> None:
    headers = Headers(raw=[(b"x-request-id", each) for each in sent])
    found = chosen(headers)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", found)
    if sent == [found.encode()]:
        assert chosen(headers) == found
