"""Documents that are for some groups alone: for all others they are not there, wherever they ask.

The retriever and Milvus Lite are real. Each answer to one who may not read a document is compared
with the answer in a house that has no such document at all.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.domain import Route
from tests.fixtures import FixedRouter, House, ScriptedModel, decision
from tests.gateway.knowledge import LocalKnowledge

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]

GROUPS: dict[str, list[str]] = {
    "nobody": [],
    "sales": ["sales"],
    "hr": ["hr"],
    "both": ["hr", "sales"],
    "all": ["*"],
    "écoles & co": ["écoles & co"],
}
SECRET = "Quetzal"
OPEN = {
    "id": "open",
    "title": "Vault",
    "text": "The code of the vault is 2846.",
    # A later version that is for others hides it from nobody.
    "metadata": {"as_of": "2026-01-01T00:00:00Z", "series": "codes"},
}
CLOSED = {
    "id": "closed",
    "title": "Vault",
    "text": f"The code of the vault is {SECRET}.",
    "allow": ["hr", "écoles & co"],
    "metadata": {"as_of": "2026-06-01T00:00:00Z", "series": "codes"},
    "source": "/hr",
}
CHAT = {"messages": [{"role": "user", "content": "What is the code of the vault?"}]}


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer key-{GROUPS_IN_ORDER.index(name)}"}


GROUPS_IN_ORDER = list(GROUPS)


class World:
    """A house with and one without the document, under the same keys."""

    def __init__(self, knowledge: LocalKnowledge, readers: str, whole_tokens: int) -> None:
        keys = [
            {
                "name": f"key {number}",
                "sha256": hashlib.sha256(f"key-{number}".encode()).hexdigest(),
                "scopes": ["chat", "ingest"],
                "groups": GROUPS[name],
            }
            for number, name in enumerate(GROUPS_IN_ORDER)
        ]
        self.house = House(
            router=FixedRouter(decision(Route.KNOWLEDGE)),
            gateway={"api_keys": keys},
            knowledge=knowledge,
            expert=ScriptedModel(f"The code of the vault is {SECRET}."),
            frontier=ScriptedModel("No idea."),
            roles={"answer": readers.split()},
            whole_tokens=whole_tokens,
            min_quote=0.0,
        )
        transport = httpx.ASGITransport(self.house.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def ask(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = await self.http.request(method, path, json=body, headers=key(who))
        return answer.status_code, answer.json()

    @property
    def prompts(self) -> str:
        asked = [*self.house.expert.asked, *self.house.frontier.asked]
        return "\n".join(m.content for each in asked for m in each.messages)


@pytest.fixture(scope="module")
async def knowledge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalKnowledge]:
    made = LocalKnowledge(tmp_path_factory.mktemp("knowledge"))
    world = World(made, "rule", 0)
    for collection, documents in (("with", [OPEN, CLOSED]), ("without", [OPEN])):
        path = f"/v1/collections/{collection}/documents"
        assert (await world.ask("all", "PUT", path, {"documents": documents}))[0] == 200
    yield made
    await made.store.close()


WAYS: list[tuple[str, str, Any]] = [
    ("GET", "documents", None),
    ("GET", "documents?limit=1", None),
    ("GET", "documents?after=a&limit=1", None),
    ("GET", "documents?source=/hr", None),
    ("GET", "documents/closed", None),
    ("DELETE", "documents/closed", None),
    ("POST", "search", {"query": "the code of the vault", "k": 50}),
    ("POST", "search", {"query": SECRET, "k": 50, "mode": "sparse"}),
    ("POST", "search", {"query": SECRET, "k": 1, "mode": "dense", "diversity": 1.0}),
    ("POST", "search", {"query": "vault", "since": "2026-02-01T00:00:00Z"}),
    ("POST", "search", {"query": "vault", "metadata": {"as_of": "2026-06-01T00:00:00Z"}}),
    ("POST", "search", {"query": "vault", "recent": True, "rerank": False}),
]


@pytest.mark.parametrize("who", ["nobody", "sales"])
async def test_who_may_not_read_it_cannot_tell_that_it_is_there(
    knowledge: LocalKnowledge, who: str
) -> None:
    world = World(knowledge, "rule", 0)
    for method, path, body in WAYS:
        there = await world.ask(who, method, f"/v1/collections/with/{path}", body)
        absent = await world.ask(who, method, f"/v1/collections/without/{path}", body)
        assert _told(there) == _told(absent), (method, path, body)


def _told(answer: Any) -> str:
    """What is said, without the names of the two collections; recency goes on between the two."""
    told = repr(answer).replace("'without'", "'with'").replace("/without/", "/with/")
    return re.sub(r"(\d\.\d{6})\d+", r"\1", told)


@pytest.mark.parametrize("who", ["hr", "both", "all", "écoles & co"])
async def test_who_may_read_it_does(knowledge: LocalKnowledge, who: str) -> None:
    world = World(knowledge, "rule", 0)
    assert SECRET in repr(await world.ask(who, "GET", "/v1/collections/with/documents/closed"))
    _, listed = await world.ask(who, "GET", "/v1/collections/with/documents")
    assert [each["id"] for each in listed["data"]] == ["closed", "open"]
    body = {"query": SECRET, "mode": "sparse"}
    assert SECRET in repr(await world.ask(who, "POST", "/v1/collections/with/search", body))


@pytest.mark.parametrize(
    ("readers", "whole"), [("rule", 0), ("expert rule", 0), ("expert rule", 10_000)]
)
async def test_answers_are_made_of_what_the_asker_may_read(
    knowledge: LocalKnowledge, readers: str, whole: int
) -> None:
    """Whoever asks first: sizes and prompts that are kept are kept apart."""
    for first, second in itertools.permutations(["hr", "sales"]):
        for who in (first, second):
            world = World(knowledge, readers, whole)
            told = await world.ask(
                who, "POST", "/v1/chat/completions", {**CHAT, "collection": "with"}
            )
            routed = await world.ask(who, "POST", "/v1/route", {"query": f"Is it {SECRET}?"})
            assert told[0] == routed[0] == 200
            seen = world.prompts + repr(told[1]["choices"][0]["message"].get("annotations"))
            assert ("closed" in seen or SECRET in world.prompts) == (who == "hr")


async def test_nobody_writes_what_he_may_not_read(knowledge: LocalKnowledge) -> None:
    world = World(knowledge, "rule", 0)
    path = "/v1/collections/with/documents"
    for document, param in (
        ({"id": "new", "text": "t", "allow": ["hr"]}, "documents[1].allow"),
        ({"id": "closed", "text": "t"}, "documents[1].id"),
    ):
        body = {"documents": [{"id": "also", "text": "t"}, document]}
        status, told = await world.ask("sales", "PUT", path, body)
        assert (status, told["error"]["param"]) == (403, param)
    _, listed = await world.ask("all", "GET", path)
    assert [each["id"] for each in listed["data"]] == ["closed", "open"]
    assert SECRET in repr(await world.ask("all", "GET", f"{path}/closed"))


async def test_rights_change_with_the_document(knowledge: LocalKnowledge) -> None:
    world = World(knowledge, "rule", 0)
    path = "/v1/collections/changing/documents"
    for allow, seen in ((["hr"], 404), (["hr", "sales"], 200), (["hr"], 404), ([], 200)):
        body = {"documents": [{"id": "a", "text": "t", "allow": allow}]}
        status, report = await world.ask("all", "PUT", path, body)
        assert status == 200, report
        assert (await world.ask("sales", "GET", f"{path}/a"))[0] == seen
    for bad in (["*"], ["a,b"], ['"'], [""], ["a\n"], ["g"] * 65, "hr"):
        status, told = await world.ask(
            "all", "PUT", path, {"documents": [{"id": "b", "text": "t", "allow": bad}]}
        )
        assert (status, told["error"]["param"].startswith("documents[0].allow")) == (400, True)


async def test_a_collection_is_emptied_of_what_the_key_may_read(knowledge: LocalKnowledge) -> None:
    world = World(knowledge, "rule", 0)
    path = "/v1/collections/emptied"
    documents = [{"id": "open", "text": "t"}, {"id": "closed", "text": "t", "allow": ["hr"]}]
    await world.ask("all", "PUT", f"{path}/documents", {"documents": documents})
    status, told = await world.ask("sales", "DELETE", path)
    assert (status, "2" in repr(told)) == (200, False)
    _, left = await world.ask("all", "GET", f"{path}/documents")
    assert [each["id"] for each in left["data"]] == ["closed"]
    assert (await world.ask("hr", "DELETE", path))[0] == 200
    assert (await world.ask("all", "GET", f"{path}/documents"))[0] == 404
