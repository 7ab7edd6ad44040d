"""What is no question counts too: it has limits, places and a price as questions do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from serve_app.domain import (
    Chunk,
    Decision,
    Delta,
    Generation,
    Message,
    RequestContext,
    SearchQuery,
    Usage,
)
from serve_app.ledger import tables
from serve_app.orchestration.run import Purse
from serve_app.retrieval.index import IngestReport
from tests.fixtures import EMBEDS, EXPERT, FixedKnowledge, FixedRouter, House, chunk, decision
from tests.gateway.test_http import CHAT, DOCUMENTS, TURNS, client_of, refusal, send

pytestmark = pytest.mark.usefixtures("clean_environment")

DOCUMENT = {"id": "a", "text": "Tents are mended in May."}
REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/route", {"query": "stock?"}),
    ("POST", "/v1/collections/default/search", {"query": "tents"}),
    ("PUT", DOCUMENTS, {"documents": [DOCUMENT]}),
    ("GET", DOCUMENTS, None),
    ("GET", f"{DOCUMENTS}/policy", None),
    ("DELETE", f"{DOCUMENTS}/policy", None),
    ("DELETE", "/v1/collections/default", None),
    ("POST", "/v1/feedback", {"id": "mine", "good": True}),
    ("GET", "/v1/usage", None),
]


def limited(requests: int, **options: Any) -> House:
    limits = [{"of": "key", "per": "month", "requests": requests}]
    found = FixedKnowledge([chunk("Tents are mended in May.")])
    return House(ledger={"limits": limits}, knowledge=found, **options)


async def rows(house: House, table: Any) -> Sequence[Any]:
    return await house.database.read(lambda it: it.execute(select(table)).all())


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
async def test_every_request_counts_against_the_limit_on_requests(
    method: str, path: str, body: Any
) -> None:
    house = limited(2)
    async with client_of(house) as client:
        await client.post(CHAT, json={"messages": TURNS}, headers={"x-request-id": "mine"})
        assert (await client.request(method, path, json=body)).status_code == 200
        refused = await client.request(method, path, json=body)
    error = refusal(refused, 429, "budget_exceeded")
    assert "2 requests" in error["message"]
    assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
async def test_a_request_is_no_question_in_the_report(method: str, path: str, body: Any) -> None:
    house = limited(10)
    async with client_of(house) as client:
        await client.post(CHAT, json={"messages": TURNS}, headers={"x-request-id": "mine"})
        assert (await client.request(method, path, json=body)).status_code == 200
        used = (await client.get("/v1/usage")).json()
    assert sum(line["asked"] for line in used["data"]) == 1
    assert sum(line["answered"] for line in used["data"]) == 1
    assert used["limits"][0]["used"] == 3
    statuses = [row.status for row in await rows(house, tables.answers)]
    assert sorted(statuses) == ["ok", "served", "served"]


async def test_feedback_on_a_search_is_feedback_on_nothing() -> None:
    house = limited(10)
    async with client_of(house) as client:
        headers = {"x-request-id": "searched"}
        path = "/v1/collections/default/search"
        assert (await client.post(path, json={"query": "x"}, headers=headers)).status_code == 200
        judged = await client.post("/v1/feedback", json={"id": "searched", "good": True})
    refusal(judged, 404, "not_found")


async def test_what_a_search_embeds_is_booked() -> None:
    house = limited(10)
    async with client_of(house) as client:
        await client.post("/v1/collections/default/search", json={"query": "tents " * 50})
        used = (await client.get("/v1/usage")).json()
    (call,) = await rows(house, tables.calls)
    assert (call.model, call.purpose, call.status) == (EMBEDS, "embed", "ok")
    assert call.prompt_tokens == len("tents " * 50) // 4
    assert call.cost_nanos > 0
    assert sum(line["usd"] for line in used["data"]) == pytest.approx(call.cost_nanos / 1e9)


class Embeds(FixedKnowledge):
    """Has embedded half of what came, and knows the other half."""

    async def ingest(
        self, context: RequestContext, collection: str, documents: list[Any]
    ) -> IngestReport:
        return IngestReport(2, 2, embedded=1, embedded_tokens=7, saved_tokens=7)


async def test_what_an_ingest_embeds_is_booked_and_nothing_that_was_there() -> None:
    house = House(knowledge=Embeds())
    await send(house, "PUT", DOCUMENTS, json={"documents": [DOCUMENT, {**DOCUMENT, "id": "b"}]})
    (call,) = await rows(house, tables.calls)
    assert (call.model, call.purpose, call.prompt_tokens) == (EMBEDS, "embed", 7)


class AsksTwice(FixedRouter):
    """Is never sure, so that the expert's model is asked too."""

    async def decide(
        self,
        context: RequestContext,
        messages: Sequence[Message],
        purse: Purse | None,
        collection: str = "",
    ) -> Decision:
        assert purse is not None
        prompt = Generation(tuple(messages), max_tokens=8)
        async with purse.paying([EXPERT], "route", prompt) as bill:
            bill.note(Delta(usage=Usage(100, 8)))
        return decision()


async def test_the_second_opinion_of_a_decision_is_paid_for() -> None:
    house = House(router=AsksTwice())
    assert (await send(house, "POST", "/v1/route", json={"query": "Hm?"})).status_code == 200
    (call,) = await rows(house, tables.calls)
    assert (call.model, call.purpose, call.prompt_tokens) == (EXPERT, "route", 100)
    assert call.cost_nanos > 0


class Slow(FixedKnowledge):
    """Finds nothing until it may."""

    def __init__(self) -> None:
        super().__init__([])
        self.go_on = asyncio.Event()
        self.searching = asyncio.Semaphore(0)

    async def search(
        self, context: RequestContext, collection: str, query: SearchQuery
    ) -> list[Chunk]:
        self.searching.release()
        await self.go_on.wait()
        return []


async def test_searches_have_their_own_places_and_questions_are_answered_meanwhile() -> None:
    slow = Slow()
    house = House(knowledge=slow, gateway={"max_concurrent_requests": 8})
    async with client_of(house) as client:

        async def search() -> httpx.Response:
            return await client.post("/v1/collections/default/search", json={"query": "x"})

        under_way = [asyncio.create_task(search()) for _ in range(2)]
        for _ in under_way:
            await slow.searching.acquire()
        for method, path, body in REQUESTS:
            refused = await client.request(method, path, json=body)
            refusal(refused, 429, "overloaded")
            assert refused.headers["retry-after"] == "1"
        assert (await client.post(CHAT, json={"messages": TURNS})).status_code == 200
        slow.go_on.set()
        assert {(await each).status_code for each in under_way} == {200}


async def test_documents_come_in_pages_as_openai_lists_do() -> None:
    names = [f"d{number:03d}" for number in range(250)]
    house = House(knowledge=FixedKnowledge([chunk("x", name) for name in names]))
    listed: list[str] = []
    after: dict[str, Any] = {}
    async with client_of(house) as client:
        for expected in (True, True, False):
            page = (await client.get(DOCUMENTS, params=after)).json()
            ids = [each["id"] for each in page["data"]]
            assert (page["object"], page["has_more"]) == ("list", expected)
            assert (page["first_id"], page["last_id"]) == (ids[0], ids[-1])
            listed += ids
            after = {"after": page["last_id"]}
        last = (await client.get(DOCUMENTS, params={"after": names[-1]})).json()
        assert (last["data"], last["first_id"], last["has_more"]) == ([], None, False)
        for limit in (0, 1001, "x"):
            refused = await client.get(DOCUMENTS, params={"limit": limit})
            assert refusal(refused, 400, "invalid_value")["param"] == "limit"
    assert listed == names
