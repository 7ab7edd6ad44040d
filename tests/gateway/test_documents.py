"""The documents' own endpoints over a real knowledge base: ids, numbers, sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.fixtures import House
from tests.gateway.knowledge import LocalKnowledge

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]

# Refused, as not every client and proxy lets them through in a path.
UNREACHABLE = [
    "x\n", "\nx", "x\ny", "x\r", "a\tb", "nul\x00", "\x1b", "del\x7f", "nel\x85", ".", "..", "a/..",
    "../a", "a/./b", "", " ", "\u00a0", "é" * 101,
]  # fmt: skip
REACHABLE = [
    "x", "x ", "a/b", "/a", "a/", "a//b", "https://example.com/a?b=c#d", "%0A", "%2F", "a%", "...",
    "a/...", ".hidden", "é" * 100, "日本語 🎉", "a\u2028b", "a;b", "a&b=c", "'", '"', "\\", "+",
    "*", "x\u200b", "search", "documents",
]  # fmt: skip


@pytest.fixture(scope="module")
async def http(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    knowledge = LocalKnowledge(tmp_path_factory.mktemp("knowledge"))
    transport = httpx.ASGITransport(House(knowledge=knowledge).app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    await knowledge.close()


@pytest.fixture
def documents(request: pytest.FixtureRequest) -> str:
    name = request.node.originalname.replace("test_", "")[:60].rstrip("_")
    return f"/v1/collections/{name}/documents"


async def put(http: httpx.AsyncClient, path: str, *given: dict[str, Any]) -> httpx.Response:
    # Not `json=`, which refuses what is no JSON itself.
    content = json.dumps({"documents": [{"text": "a tent", **each} for each in given]})
    return await http.put(path, content=content, headers={"content-type": "application/json"})


async def ids(http: httpx.AsyncClient, path: str, **query: str) -> list[str]:
    answer = await http.get(path, params=query)
    return [each["id"] for each in answer.json().get("data", [])]


async def test_ids_that_no_url_can_name_are_refused_by_name(
    http: httpx.AsyncClient, documents: str
) -> None:
    for document_id in UNREACHABLE:
        answer = await put(http, documents, {"id": "good"}, {"id": document_id})
        assert answer.status_code in (400, 422), document_id
        assert answer.json()["error"]["param"] == "documents[1].id"
    assert (await http.get(documents)).status_code == 404, "something was written"


async def test_every_id_that_is_taken_is_reached_and_deleted_alone(
    http: httpx.AsyncClient, documents: str
) -> None:
    answer = await put(http, documents, *({"id": each} for each in REACHABLE))
    assert answer.status_code == 200, answer.text
    for document_id in REACHABLE:
        path = f"{documents}/{quote(document_id, safe='')}"
        assert (await http.get(path)).json()["id"] == document_id
    for number, document_id in enumerate(sorted(REACHABLE), 1):
        path = f"{documents}/{quote(document_id, safe='')}"
        assert (await http.delete(path)).json()["deleted"] is True
        assert await ids(http, documents) == sorted(REACHABLE)[number:]


@pytest.mark.parametrize("more", ["%0A", "%0D", "%0D%0A", "%00", "%20", "%0Ax", "/", "%2F"])
async def test_no_other_path_deletes_a_document(
    http: httpx.AsyncClient, documents: str, more: str
) -> None:
    await put(http, documents, {"id": "x"})
    assert (await http.delete(f"{documents}/x{more}")).status_code == 404
    assert (await http.get(f"{documents}/x{more}")).status_code == 404
    assert await ids(http, documents) == ["x"]


async def test_one_id_twice_in_a_batch_is_refused_by_name(
    http: httpx.AsyncClient, documents: str
) -> None:
    answer = await put(http, documents, {"id": "a"}, {"id": "b"}, {"id": "a", "text": "other"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "documents[2].id")
    assert await ids(http, documents) == []


@pytest.mark.parametrize(
    "number",
    ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", str(2**63), str(-(2**63)), "9" * 5000],
)
async def test_numbers_that_none_can_keep_are_refused_by_name(
    http: httpx.AsyncClient, documents: str, number: str
) -> None:
    head = {"content-type": "application/json"}
    bad = f'{{"id": "b", "text": "t", "metadata": {{"n": {number}}}}}'
    body = f'{{"documents": [{{"id": "a", "text": "t"}}, {bad}]}}'
    answer = await http.put(documents, content=body, headers=head)
    asked = await http.post(
        documents.replace("documents", "search"),
        content=f'{{"query": "a", "metadata": {{"n": {number}}}}}',
        headers=head,
    )
    for each, param in ((answer, "documents[1].metadata.n"), (asked, "metadata.n")):
        assert each.status_code in (400, 422), each.text
        assert each.json()["error"]["param"] == (None if len(number) > 4000 else param)
        assert "JSON in UTF-8" not in each.text
    assert await ids(http, documents) == []


async def test_truth_is_no_number_and_numbers_are_found_as_they_are(
    http: httpx.AsyncClient, documents: str
) -> None:
    values: dict[str, Any] = {
        "true": True, "false": False, "one": 1, "zero": 0, "text": "1", "word": "true",
        "large": 2**53 + 1, "near": 2**53, "largest": 2**63 - 1, "least": -(2**63) + 1, "part": 0.5,
        "huge": 1e300,
    }  # fmt: skip
    await put(http, documents, *({"id": k, "metadata": {"v": v}} for k, v in values.items()))
    search = documents.replace("documents", "search")
    for name, value in [*values.items(), ("one", 1.0), ("zero", -0.0)]:
        answer = await http.post(
            search, json={"query": "a tent", "k": 20, "metadata": {"v": value}}
        )
        assert [hit["document_id"] for hit in answer.json()["data"]] == [name]


@pytest.mark.parametrize("name", ["", "\x00", "\x01", "a\x08", "n" * 257])
async def test_names_that_no_filter_can_name_are_refused(
    http: httpx.AsyncClient, documents: str, name: str
) -> None:
    answer = await put(http, documents, {"id": "a", "metadata": {name: 1}})
    asked = await http.post(
        documents.replace("documents", "search"), json={"query": "a", "metadata": {name: 1}}
    )
    assert {answer.status_code, asked.status_code} == {400}
    assert await ids(http, documents) == []


async def test_metadata_that_is_too_long_is_refused_by_name(
    http: httpx.AsyncClient, documents: str
) -> None:
    for more in ({"n": "x" * 70_000}, {"as_of": "2026-01-01T00:00:00." + "0" * 90}):
        answer = await put(http, documents, {"id": "good"}, {"id": "a", "metadata": more})
        assert answer.status_code == 422
        assert answer.json()["error"]["param"].startswith("documents[1].metadata")
    assert await ids(http, documents) == []


async def test_a_document_of_one_source_does_not_replace_one_of_another(
    http: httpx.AsyncClient, documents: str
) -> None:
    await put(http, documents, {"id": "a", "text": "one", "source": "/x", "url": "/x/a.md"})
    clash = {"id": "a", "text": "two", "source": "/y", "url": "/y/a.md"}
    answer = await put(http, documents, {"id": "b"}, clash)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "documents[1].id")
    assert "/x" in answer.json()["error"]["message"]
    assert await ids(http, documents) == ["a"]
    assert await ids(http, documents, source="/x") == ["a"]
    assert await ids(http, documents, source="/y") == []
    # Who names no source means that very document.
    assert (await put(http, documents, {"id": "a", "text": "three"})).status_code == 200
    assert await ids(http, documents, source="/x") == []


async def test_who_may_ingest_sees_which_documents_there_are_and_not_what_they_say(
    tmp_path: Path, documents: str
) -> None:
    knowledge = LocalKnowledge(tmp_path)
    sha256 = hashlib.sha256(b"secret").hexdigest()
    keys = [{"name": "crawler", "sha256": sha256, "scopes": ["ingest"]}]
    house = House(knowledge=knowledge, gateway={"api_keys": keys})
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(house.app),
        base_url="http://gateway",
        headers={"authorization": "Bearer secret"},
    ) as http:
        await put(http, documents, {"id": "x", "source": "/a"})
        assert await ids(http, documents, source="/a") == ["x"]
        assert (await http.get(f"{documents}/x")).status_code == 403
        assert (await http.delete(f"{documents}/x")).status_code == 200
    await knowledge.close()


async def test_a_document_comes_back_as_it_was_put(http: httpx.AsyncClient, documents: str) -> None:
    text = (
        "# Tents\r\n\r\n| a | b |\n|---|---|\n| 1 | 2 |\n\n\tcode\u00ad \ufb01 ½ 日本語\n\n\n" * 30
    )
    put_as = {
        "id": "x",
        "title": " T\u200b ",
        "text": text,
        "metadata": {"n": 1.5, "on": True},
    }
    answer = await put(http, documents, put_as)
    assert answer.status_code == 200, answer.text
    found = (await http.get(f"{documents}/x")).json()
    assert {name: found[name] for name in put_as} == put_as
    assert len(found["chunks"]) > 1
    await put(http, documents, {"id": "x", "text": "other"})
    assert (await http.get(f"{documents}/x")).json()["text"] == "other"
    await http.delete(f"{documents}/x")
    assert (await http.get(f"{documents}/x")).status_code == 404
    await put(http, documents, {"id": "x", "text": "new"})
    assert (await http.get(f"{documents}/x")).json()["text"] == "new"
