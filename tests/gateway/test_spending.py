"""What an answer cost is in the ledger when it is in the client's hands; limits hold over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from serve_app.domain import Delta, Generation, Message, Route, Usage
from serve_app.errors import Unavailable
from serve_app.ledger import tables
from serve_app.ledger.bills import Bill
from serve_app.ledger.entries import Hold, Opening
from serve_app.ledger.keys import Keys
from serve_app.ledger.limits import Amount, Payer
from tests.fixtures import (
    EMBEDS,
    EXPERT,
    FRONTIER,
    QUOTES,
    FixedKnowledge,
    FixedRouter,
    House,
    ScriptedModel,
    chunk,
    decision,
    prices,
)

CHAT = "/v1/chat/completions"
EVE = Payer("other", "eve")
OPENED = {"request_id": "r", "asked_model": "trivium/auto", "degraded": ""}
HELD = {"model": FRONTIER, "purpose": "frontier", "adapter": None}
FULL = Amount(0, 0, 100_000)
WHY = {"messages": [{"role": "user", "content": "Why?"}], "max_completion_tokens": 10}


def client_of(house: House) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(house.app), base_url="http://gateway")


async def rows(house: House, table: Any = tables.answers) -> Sequence[Any]:
    """Of answers, those to questions."""
    chosen = select(table).order_by(table.c.started_at)
    if table is tables.answers:
        chosen = chosen.where(tables.is_question)
    return await house.database.read(lambda it: it.execute(chosen).all())


def to_the_frontier(**options: Any) -> House:
    return House(router=FixedRouter(decision(Route.FRONTIER)), **options)


async def test_an_answer_has_a_row_with_who_what_and_how_much() -> None:
    house = House()
    async with client_of(house) as client:
        answer = await client.post(CHAT, json=WHY, headers={"x-request-id": "mine"})
    (row,) = await rows(house)
    assert (row.status, row.route, row.model) == ("ok", "expert", EXPERT)
    assert (row.tenant, row.api_key, row.request_id) == ("default", "anonymous", "mine")
    assert row.cost_nanos == round(float(answer.headers["x-trivium-cost-usd"]) * 1e9)
    assert row.baseline_nanos == round(float(answer.headers["x-trivium-baseline-usd"]) * 1e9)
    assert {"decide", "expert"} <= set(row.stages_ms)
    assert row.good is None
    (call,) = await rows(house, tables.calls)
    assert (call.answer_id, call.cost_nanos) == (row.id, row.cost_nanos)
    assert call.machine_seconds > 0
    assert "Why?" not in repr((row, call))


async def test_finding_evidence_has_its_price() -> None:
    found = FixedKnowledge([chunk("Goods may be returned within 30 days.")])
    router = FixedRouter(decision(Route.KNOWLEDGE))
    house = House(router=router, knowledge=found, roles=QUOTES)
    async with client_of(house) as client:
        answer = (await client.post(CHAT, json=WHY)).json()
    calls = await rows(house, tables.calls)
    (row,) = await rows(house)
    assert {(call.model, call.purpose) for call in calls} == {(EMBEDS, "embed")}
    assert row.cost_nanos == sum(call.cost_nanos for call in calls) > 0
    assert answer["usage"]["cost_details"]["by_purpose"] == {
        "embed": pytest.approx(row.cost_nanos / 1e9)
    }
    # No model wrote the answer.
    assert (row.model, answer["usage"]["total_tokens"]) == (None, 0)


async def test_a_stream_is_in_the_ledger_before_it_says_that_it_is_done() -> None:
    house = House()
    async with (
        client_of(house) as client,
        client.stream("POST", CHAT, json={**WHY, "stream": True}) as answer,
    ):
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                (row,) = await rows(house)
                assert row.status == "ok"
                assert row.cost_nanos > 0
                return
    pytest.fail("the stream did not end")


async def test_failures_and_detours_are_written_down() -> None:
    down = Unavailable("down")
    house = House(expert=ScriptedModel(down), fallbacks={})
    async with client_of(house) as client:
        assert (await client.post(CHAT, json=WHY)).status_code == 503
        house.expert.script = ()
        house.router.outcome = decision(Route.FRONTIER)
    stood_in = to_the_frontier(frontier=ScriptedModel(down))
    async with client_of(stood_in) as client:
        assert (await client.post(CHAT, json=WHY)).status_code == 200
    ((failed,), (other,)) = await rows(house), await rows(stood_in)
    assert (failed.status, failed.cost_nanos) == ("failed", 0)
    assert (other.status, other.degraded) == ("ok", "frontier-service-unavailable")
    assert other.model == EXPERT


async def test_what_does_not_fit_is_answered_by_the_next_road() -> None:
    house = to_the_frontier(ledger=month("0.0001"))
    async with client_of(house) as client:
        answer = await client.post(CHAT, json=WHY)
    assert answer.status_code == 200
    assert answer.headers["x-trivium-degraded"] == "frontier-budget-exceeded"
    assert not house.frontier.asked


async def test_or_refused_where_the_house_says_so() -> None:
    house = to_the_frontier(ledger=month("0.0001", at_limit="refuse"))
    async with client_of(house) as client:
        answer = await client.post(CHAT, json=WHY)
    assert answer.status_code == 429
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("budget_exceeded", "insufficient_quota")
    # It is more than the whole month's limit.
    assert "retry-after" not in answer.headers
    assert not house.frontier.asked
    assert not house.expert.asked


async def test_too_many_requests_are_told_when_to_come_again() -> None:
    house = House(ledger={"limits": [{"of": "key", "per": "minute", "requests": 2}]})
    async with client_of(house) as client:
        answers = await asyncio.gather(*(client.post(CHAT, json=WHY) for _ in range(5)))
    statuses = sorted(each.status_code for each in answers)
    # A minute may end in the middle.
    assert statuses in ([200, 200, 429, 429, 429], [200, 200, 200, 429, 429], [200] * 4 + [429])
    assert all("retry-after" in each.headers for each in answers if each.status_code == 429)


@pytest.mark.parametrize(
    "endless",
    [ScriptedModel(*["word " * 20] * 500), ScriptedModel(*[" w"] * 500)],
    ids=["much text", "many tokens"],
)
async def test_an_endless_answer_is_ended_where_it_passes_its_bound(
    endless: ScriptedModel,
) -> None:
    house = to_the_frontier(frontier=endless)
    async with client_of(house) as client:
        answer = (await client.post(CHAT, json=WHY)).json()
    (call,) = await rows(house, tables.calls)
    # The one that is too many is the model's word, and is invoiced.
    assert call.completion_tokens <= 11
    assert call.cost_nanos <= call.held_nanos
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "length"
    assert len(choice["message"]["content"]) < 500
    assert not endless.running


async def test_what_a_provider_claims_beyond_all_bounds_is_booked_and_closes_the_door() -> None:
    claiming = ScriptedModel(Delta("Deep.", "stop", Usage(10**9, 10)))
    limits = [{"of": "house", "per": "month", "usd": "10"}]
    house = to_the_frontier(frontier=claiming, ledger={"limits": limits, "at_limit": "refuse"})
    async with client_of(house) as client:
        answer = await client.post(CHAT, json=WHY)
        again = await client.post(CHAT, json=WHY)
    assert answer.json()["usage"]["prompt_tokens"] == 10**9
    assert float(answer.headers["x-trivium-cost-usd"]) == pytest.approx(2000.00008)
    assert again.status_code == 429
    assert house.metrics.overclaims == [FRONTIER]
    assert len(claiming.asked) == 1


async def test_feedback_is_for_ones_own_answers() -> None:
    house = House()
    keys = Keys(house.database)
    _, ann = await keys.create("ann", "acme", ["chat"])
    _, eve = await keys.create("eve", "other", ["chat"])

    async with client_of(house) as client:

        async def post(path: str, key: str, body: Any) -> httpx.Response:
            return await client.post(path, json=body, headers={"authorization": f"Bearer {key}"})

        made = (await post(CHAT, ann, WHY)).json()["id"]
        theirs = await post("/v1/feedback", eve, {"id": made, "good": False})
        assert theirs.status_code == 404
        ours = await post("/v1/feedback", ann, {"id": made, "good": True})
        assert ours.json() == {"object": "feedback", "id": made, "good": True}
        (row,) = await rows(house)
        assert (row.good, row.judge) == (True, "caller")
        await post("/v1/feedback", ann, {"id": made, "good": False})
        (row,) = await rows(house)
        assert row.good is False
        assert (await post("/v1/feedback", ann, {"id": made})).status_code == 400


async def test_usage_shows_a_tenant_its_own_spend_and_limits() -> None:
    limits = [
        {"of": "house", "per": "month", "usd": "77"},
        {"of": "tenant", "name": "acme", "per": "month", "usd": "5"},
        {"of": "key", "per": "day", "requests": 9},
    ]
    house = House(ledger={"limits": limits}, gateway={"open": False})
    _, ann = await Keys(house.database).create("ann", "acme", ["chat"])
    _, eve = await Keys(house.database).create("eve", "other", ["chat"])
    async with client_of(house) as client:
        for key in (ann, ann, eve):
            headers = {"authorization": f"Bearer {key}"}
            await client.post(CHAT, json=WHY, headers=headers)
        headers = {"authorization": f"Bearer {ann}"}
        usage = (await client.get("/v1/usage", headers=headers)).json()
    (line,) = usage["data"]
    assert line["group"][1] == "expert"
    assert (line["asked"], line["answered"]) == (2, 2)
    assert {(each["of"], each["unit"], each["limit"]) for each in usage["limits"]} == {
        ("house", "usd", None),
        ("tenant", "usd", 5.0),
        ("key", "requests", 9.0),
    }
    of_house, of_tenant, of_key = usage["limits"]
    # To ask for it is a request too.
    assert (of_key["used"], of_key["share"]) == (3, pytest.approx(3 / 9))
    assert of_tenant["used"] == pytest.approx(line["usd"])
    # That there is room, and nothing of what others spend.
    assert of_house == {
        "of": "house",
        "per": "month",
        "unit": "usd",
        "limit": None,
        "used": None,
        "held": None,
        "share": 0.1,
    }


async def test_a_house_limit_that_is_full_shows_in_usage() -> None:
    """Else nobody could tell why they are refused."""
    limits = [{"of": "house", "per": "month", "usd": "0.0001"}]
    house = to_the_frontier(
        ledger={"limits": limits, "at_limit": "refuse"}, gateway={"open": False}
    )
    _, ann = await Keys(house.database).create("ann", "acme", ["chat"])
    headers = {"authorization": f"Bearer {ann}"}
    await house.book.ask(Opening("o" * 32, EVE, time.time(), time.time() + 60, OPENED))
    held = Hold("h" * 32, "o" * 32, EVE, time.time(), time.time() + 60, FULL, HELD)
    await house.book.ask(held)
    async with client_of(house) as client:
        refused = await client.post(CHAT, json=WHY, headers=headers)
        usage = (await client.get("/v1/usage", headers=headers)).json()
    assert refused.status_code == 429
    assert [(each["of"], each["share"]) for each in usage["limits"]] == [("house", 1.0)]


async def test_an_open_house_shows_its_own_limit_whole() -> None:
    house = House(ledger={"limits": [{"of": "house", "per": "day", "requests": 10}]})
    async with client_of(house) as client:
        await client.post(CHAT, json=WHY)
        usage = (await client.get("/v1/usage")).json()
    (limit,) = usage["limits"]
    assert (limit["of"], limit["limit"], limit["used"], limit["share"]) == ("house", 10, 2, 0.2)


async def test_what_failed_counts_too_and_what_was_refused_does_not() -> None:
    limits = [{"of": "house", "per": "day", "requests": 3}]
    broken = ScriptedModel(Unavailable("it broke off"))
    house = House(expert=broken, frontier=broken, ledger={"limits": limits})
    async with client_of(house) as client:
        statuses = [(await client.post(CHAT, json=WHY)).status_code for _ in range(4)]
    assert statuses == [503, 503, 503, 429]
    chosen = select(tables.counters.c.requests).where(tables.counters.c.scope == "house")
    assert set(await house.database.read(lambda it: it.execute(chosen).scalars().all())) == {3}


async def test_a_key_in_a_url_is_refused() -> None:
    async with client_of(House()) as client:
        answer = await client.post(f"{CHAT}?api_key=tv-secret", json=WHY)
    assert answer.status_code == 401
    assert "Authorization" in answer.json()["error"]["message"]
    assert "tv-secret" not in answer.text


def month(usd: str, **ledger: Any) -> dict[str, Any]:
    """Room for the small model's answer to `WHY`, and not for the large one's."""
    bound = Bill(Generation((Message("user", "Why?"),), 10)).bound
    assert prices().of(EXPERT, bound) < float(usd) < prices().of(FRONTIER, bound)
    return {"limits": [{"of": "house", "per": "month", "usd": usd}], **ledger}
