"""Several models in order, over real sockets: the next one answers where one cannot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain import Delta, Lost
from serve_app.errors import (
    FrontierNotConfigured,
    InvalidRequest,
    Overloaded,
    SettingsError,
    Unavailable,
)
from serve_app.frontier.upstreams import Upstreams
from serve_app.settings import FrontierSettings, from_args
from tests.frontier.requests import Kind
from tests.frontier.test_retrying import Server
from tests.frontier.wire import ASK, KEY


@asynccontextmanager
async def upstreams(
    first: tuple[Kind, int | str],
    second: tuple[Kind, int | str],
    *,
    same: bool = False,
    most: int | None = None,
) -> AsyncIterator[tuple[Upstreams, list[Server]]]:
    """Two providers that answer with the given steps, without retries."""
    servers, listening, named = [], [], []
    for number, (kind, step) in enumerate((first, second)):
        server = Server(kind, step)
        handled = await asyncio.start_server(_closing(server), "127.0.0.1", 0)
        port = handled.sockets[0].getsockname()[1]
        suffix = "/v1" if kind == "openai" else ""
        url = f"http://127.0.0.1:{port}{suffix}"
        model = "the-same" if same else f"model-{number}"
        named.append({"provider": kind, "model": model, "base_url": url, "api_key": KEY})
        servers.append(server)
        listening.append(handled)
    settings = {**named[0], "fallbacks": named[1:], "retries": 0, "max_concurrent": most}
    yield Upstreams(FrontierSettings.model_validate(settings)), servers
    for handled in listening:
        handled.close()


def _closing(server: Server) -> Any:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.handle(reader, writer)
        writer.close()

    return handle


async def answer(model: Upstreams) -> list[Delta]:
    return [delta async for delta in model.generate(ASK, time.time() + 20)]


def models(deltas: list[Delta]) -> set[str]:
    """Which models answer: a step that names none is of the one before."""
    return {delta.model for delta in deltas if delta.model and not delta.lost}


async def test_the_first_one_answers_while_it_can() -> None:
    async with upstreams(("openai", "good"), ("anthropic", "good")) as (model, servers):
        deltas = await answer(model)
    assert models(deltas) == {"model-0"}
    assert [each.requests for each in servers] == [1, 0]
    assert any(delta.provider_id for delta in deltas)


@pytest.mark.parametrize("broken", [500, 429, 401, 404, "drop"])
async def test_the_next_one_answers_where_one_cannot(broken: int | str) -> None:
    async with upstreams(("openai", broken), ("anthropic", "good")) as (model, servers):
        deltas = await answer(model)
    assert "".join(delta.text for delta in deltas) == "Héllo"
    assert models(deltas) == {"model-1"}
    assert [each.requests for each in servers] == [1, 1]


@pytest.mark.parametrize(
    ("broken", "lost"),
    [(500, []), (429, []), (401, []), ("drop", [Lost("model-0", again=True)])],
)
async def test_who_may_send_a_bill_though_the_next_one_answers_is_told(
    broken: int | str, lost: list[Lost]
) -> None:
    async with upstreams(("openai", broken), ("anthropic", "good")) as (model, _):
        deltas = await answer(model)
    assert [each for delta in deltas for each in delta.lost] == lost


async def test_what_is_beyond_a_bound_goes_to_the_next() -> None:
    async with upstreams(("openai", "good"), ("anthropic", "good"), most=1) as (model, _):
        first = model.generate(ASK, time.time() + 20)
        assert (await anext(first)).model == "model-0"
        assert models(await answer(model)) == {"model-1"}
        await first.aclose()
        assert models(await answer(model)) == {"model-0"}


async def test_one_model_may_be_had_from_two_providers() -> None:
    async with upstreams(("openai", 500), ("openai", "good"), same=True) as (model, servers):
        await answer(model)
    assert [each.requests for each in servers] == [1, 1]


async def test_none_takes_over_in_the_middle() -> None:
    async with upstreams(("anthropic", "half"), ("openai", "good")) as (model, servers):
        with pytest.raises(Unavailable):
            await answer(model)
    assert [each.requests for each in servers] == [1, 0]


async def test_what_one_model_refuses_the_next_may_take() -> None:
    async with upstreams(("openai", 400), ("anthropic", "good")) as (model, servers):
        assert models(await answer(model)) == {"model-1"}
    assert [each.requests for each in servers] == [1, 1]


async def test_what_all_refuse_is_at_fault() -> None:
    async with upstreams(("openai", 400), ("anthropic", 400)) as (model, servers):
        with pytest.raises(InvalidRequest, match="refused"):
            await answer(model)
    assert [each.requests for each in servers] == [1, 1]


@pytest.mark.parametrize(("first", "second"), [(500, 400), (400, 500), (429, 400), ("drop", 422)])
async def test_an_outage_is_not_the_callers_fault(first: int | str, second: int | str) -> None:
    async with upstreams(("openai", first), ("anthropic", second)) as (model, _):
        with pytest.raises((Unavailable, Overloaded)):
            await answer(model)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 7},
        {"temperature": 1.7, "top_p": 0.5},
        {"presence_penalty": 1, "frequency_penalty": 1},
        {"response_format": {"type": "json_object"}},
        {"stop": ["\n"]},
    ],
)
async def test_an_outage_of_openai_does_not_make_a_good_request_bad(
    options: dict[str, Any],
) -> None:
    async with upstreams(("openai", 500), ("anthropic", "good")) as (model, servers):
        asked = replace(ASK, options=options)
        deltas = [delta async for delta in model.generate(asked, time.time() + 20)]
    assert "".join(delta.text for delta in deltas) == "Héllo"
    assert models(deltas) == {"model-1"}
    assert [each.requests for each in servers] == [1, 1]


async def test_when_none_can_the_last_one_says_why() -> None:
    async with upstreams(("openai", 500), ("anthropic", 503)) as (model, servers):
        with pytest.raises(Unavailable, match="503"):
            await answer(model)
    assert [each.requests for each in servers] == [1, 1]


async def test_without_any_the_road_says_so() -> None:
    with pytest.raises(FrontierNotConfigured):
        await answer(Upstreams(FrontierSettings()))


OTHER = {"provider": "openai", "model": "b", "key_from": "OTHER_KEY"}


@pytest.mark.usefixtures("clean_environment")
def test_each_has_its_own_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    monkeypatch.setenv("OTHER_KEY", "two")
    settings = from_args({"frontier": {"provider": "openai", "model": "a", "fallbacks": [OTHER]}})
    keys = [each.api_key.get_secret_value() for each in settings.frontier.upstreams]
    assert keys == ["one", "two"]
    assert "two" not in str(settings.to_args())
    assert from_args(settings.to_args()) == settings
    monkeypatch.delenv("OTHER_KEY")
    with pytest.raises(SettingsError, match="OTHER_KEY"):
        from_args({"frontier": {"provider": "openai", "model": "a", "fallbacks": [OTHER]}})


@pytest.mark.parametrize(
    ("frontier", "said"),
    [
        ({"fallbacks": [{**OTHER, "api_key": "k"}]}, "set provider and model first"),
        ({**OTHER, "api_key": "k", "fallbacks": [{}]}, "needs a provider"),
        ({**OTHER, "api_key": "k", "silence_s": 60, "timeout_s": 60}, "silence_s"),
        ({**OTHER, "api_key": "k", "hedge_after_s": 1}, "name at least one"),
        (
            {**OTHER, "api_key": "k", "fallbacks": [{**OTHER, "api_key": "k"}], "silence_s": 5}
            | {"hedge_after_s": 5},
            "must be below silence_s",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(frontier: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        from_args({"frontier": frontier})
