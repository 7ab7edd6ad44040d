"""Questions while Milvus comes and goes: gateway, retriever and a server of 2.3, without Ray."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from milvus import MilvusServer

from serve_app import models
from serve_app.domain import Route
from serve_app.gateway.roads import RemoteKnowledge
from serve_app.handles import Remote
from serve_app.retrieval.deployment import RetrieverServer
from serve_app.settings import RetrievalSettings
from tests.fixtures import FixedRouter, House, InProcess, ScriptedModel, decision

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(300),
]

CHAT, DOCUMENTS = "/v1/chat/completions", "/v1/collections/default/documents"
QUESTION = {"messages": [{"role": "user", "content": "Within how many days are returns possible?"}]}
RETURNS = {"id": "returns", "title": "Returns", "text": "Returns are possible within 60 days."}
TIMEOUT_S, DEADLINE_S = 3.0, 15.0


def bound(port: int) -> socket.socket | None:
    """As Milvus itself binds: a port whose last connections are not forgotten yet may be taken."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen()
    except OSError:
        listening.close()
        return None
    return listening


@pytest.fixture
def milvus(tmp_path: Path) -> Iterator[MilvusServer]:
    """A server that is not started yet, and is at the same port whenever it is."""
    server = MilvusServer()
    server.set_base_dir(str(tmp_path / "milvus"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server.listen_port = probe.getsockname()[1]
    server.config.try_bind_port = bound
    yield server
    server.stop()


@pytest.fixture
async def client(milvus: MilvusServer) -> AsyncIterator[httpx.AsyncClient]:
    """A house whose knowledge is on that server; without it, the frontier stands in."""
    uri = f"http://127.0.0.1:{milvus.listen_port}"
    settings = RetrievalSettings(milvus_uri=uri, timeout_s=TIMEOUT_S)
    retriever: Any = InProcess(RetrieverServer(settings, models.embedding_models(), None))
    house = House(
        router=FixedRouter(decision(Route.KNOWLEDGE)),
        knowledge=RemoteKnowledge(Remote(retriever, "knowledge", TIMEOUT_S)),
        frontier=ScriptedModel("Nobody knows."),
        gateway={"request_timeout_s": DEADLINE_S},
        answers="quote",
    )
    transport = httpx.ASGITransport(house.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def ask(client: httpx.AsyncClient) -> str:
    """The answer, or why another road gave it; in either case before the deadline."""
    started = time.monotonic()
    response = await client.post(CHAT, json=QUESTION)
    assert time.monotonic() - started < DEADLINE_S
    assert response.status_code == 200, response.text
    degraded = response.headers.get("x-trivium-degraded")
    text = str(response.json()["choices"][0]["message"]["content"])
    if degraded:
        assert text == "Nobody knows."
    return degraded or text


async def until(client: httpx.AsyncClient, prefix: str) -> list[str]:
    """Ask until an answer begins so; all answers up to that one."""
    answers = [await ask(client)]
    while not answers[-1].startswith(prefix):
        answers.append(await ask(client))
    return answers


async def test_questions_are_answered_while_milvus_comes_and_goes(
    milvus: MilvusServer, client: httpx.AsyncClient
) -> None:
    answer = "Returns are possible within 60 days."
    # Down at start: another road answers and says why; what is written is refused, not lost.
    assert (await ask(client)).startswith("knowledge-")
    refused = await client.put(DOCUMENTS, json={"documents": [RETURNS]})
    assert refused.status_code == 503
    assert refused.json()["error"]["type"] == "service_unavailable_error"

    await asyncio.to_thread(milvus.start)
    while (await client.put(DOCUMENTS, json={"documents": [RETURNS]})).status_code == 503:
        pass
    assert (await until(client, answer))[-1] == answer

    # It dies while four clients ask.
    going = [asyncio.create_task(until(client, "knowledge-")) for _ in range(4)]
    milvus.server_proc.kill()
    milvus.server_proc.wait()
    for answers in await asyncio.gather(*going):
        assert set(answers[:-1]) <= {answer}
    assert (await client.get(DOCUMENTS)).status_code == 503

    await asyncio.to_thread(milvus.start)
    back = await until(client, answer)
    assert all(each.startswith("knowledge-") for each in back[:-1]), back
