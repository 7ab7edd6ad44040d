"""What the gateway counts of the requests that it answers, or does not."""

from __future__ import annotations

import time

import httpx
import pytest

from serve_app.domain import (
    WARM_UP,
    Delta,
    Generation,
    Message,
    RequestContext,
    Route,
    Usage,
)
from serve_app.errors import Unavailable
from serve_app.gateway.timing import Timed
from serve_app.orchestration.run import Question
from serve_app.telemetry.metrics import GatewayMetrics
from tests.fixtures import FixedRouter, House, ScriptedModel, context, decision
from tests.telemetry.conftest import Kept

ASK = {"messages": [{"role": "user", "content": "Why?"}]}


async def post(house: House, **more: object) -> httpx.Response:
    transport = httpx.ASGITransport(house.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.post("/v1/chat/completions", json={**ASK, **more})


async def test_a_question_without_an_answer_is_a_failure_by_its_code() -> None:
    down = ScriptedModel(Unavailable("down"))
    house = House(expert=down, frontier=down)
    assert (await post(house)).status_code == 503
    assert house.metrics.failures == ["service_unavailable"]
    assert house.metrics.outcomes == ["failed"]


async def test_a_stream_that_breaks_off_is_a_failure_too() -> None:
    house = House(expert=ScriptedModel("Half", Unavailable("gone")))
    assert (await post(house, stream=True)).status_code == 200
    assert house.metrics.failures == ["service_unavailable"]


async def test_what_the_ledger_refuses_is_a_failure_before_any_road_is_chosen() -> None:
    limits = [{"of": "house", "per": "day", "requests": 0}]
    house = House(ledger={"limits": limits})
    assert (await post(house)).status_code == 429
    assert house.metrics.failures == ["budget_exceeded"]
    assert house.metrics.outcomes == []


async def warm_up(house: House) -> None:
    asked = Question((Message("user", "hi"),), "default", Route.EXPERT)
    asking = RequestContext(WARM_UP, time.time() + 20, api_key=WARM_UP)
    async with house.accounting.answering(asking, asked, "trivium/expert") as (_, task):
        await task


async def test_a_road_that_is_not_there_yet_at_the_warm_up_fails_nobody() -> None:
    down = ScriptedModel(Unavailable("not yet"))
    house = House(expert=down, frontier=down)
    with pytest.raises(Unavailable):
        await warm_up(house)
    assert house.metrics.failures == []


async def test_the_warm_up_is_no_traffic(kept: Kept) -> None:
    house = House()
    await warm_up(house)
    assert house.expert.asked
    assert house.metrics.outcomes == []
    timed = Timed(ScriptedModel("a", "b"), "small", GatewayMetrics())
    asking = RequestContext(WARM_UP, time.time() + 20, api_key=WARM_UP)
    async for _ in timed.generate(asking, Generation((Message("user", "hi"),), 8)):
        pass
    assert kept.of("trivium_first_token_seconds", model="small") is None


async def test_a_road_that_stands_in_is_no_failure() -> None:
    house = House(
        router=FixedRouter(decision(Route.FRONTIER)), frontier=ScriptedModel(Unavailable("down"))
    )
    assert (await post(house)).status_code == 200
    assert house.metrics.failures == []
    assert house.metrics.degraded == [True]


async def heard(model: Timed) -> None:
    async for _ in model.generate(context(), Generation((Message("user", "hi"),), 8)):
        pass


async def test_a_models_pace_is_counted_under_the_name_of_the_one_that_answered(
    kept: Kept,
) -> None:
    counted = GatewayMetrics()
    await heard(Timed(ScriptedModel("a", "b", "c"), "small", counted))
    spoken = Delta("text", usage=Usage(1, 4), model="second choice")
    await heard(Timed(ScriptedModel(spoken), "first choice", counted))
    assert kept.of("trivium_first_token_seconds", model="small") is not None
    assert kept.of("trivium_token_seconds", model="small") is not None
    assert kept.of("trivium_first_token_seconds", model="second choice") is not None
    assert kept.of("trivium_first_token_seconds", model="first choice") is None


async def test_what_breaks_off_says_nothing_of_a_models_pace(kept: Kept) -> None:
    timed = Timed(ScriptedModel("a", Unavailable("gone")), "small", GatewayMetrics())
    with pytest.raises(Unavailable):
        await heard(timed)
    assert kept.of("trivium_first_token_seconds", model="small") is None


async def test_what_a_caller_says_of_an_answer_is_a_judgement() -> None:
    house = House()
    transport = httpx.ASGITransport(house.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = (await client.post("/v1/chat/completions", json=ASK)).json()
        said = await client.post("/v1/feedback", json={"id": answer["id"], "good": False})
        unknown = await client.post("/v1/feedback", json={"id": "chatcmpl-none", "good": True})
    assert (said.status_code, unknown.status_code) == (200, 404)
    assert house.metrics.judgements == [("caller", False)]
