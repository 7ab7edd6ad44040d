"""A Milvus that dies under the questions, and comes back: what callers see of it.

The gateway, the retriever and the Milvus server are real; only Ray is not between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from milvus import MilvusServer

from serve_app import models
from serve_app.domain import Route
from serve_app.gateway.roads import RemoteKnowledge
from serve_app.handles import Remote
from serve_app.retrieval.deployment import RetrieverServer
from serve_app.settings import RetrievalSettings
from tests.fixtures import QUOTES, FixedRouter, House, InProcess, ScriptedModel, decision, unread

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(300),
]

CALLERS = 4
DEADLINE_S = 20.0
FACT, GUESS = "Room 2846", "I cannot look that up."
QUESTION = {"messages": [{"role": "user", "content": "In which room is the Rubin archive?"}]}
DOCUMENT = {"id": "archive", "title": "Archive", "text": f"The Rubin archive is in {FACT}."}


class Seen(NamedTuple):
    status: int
    degraded: str
    text: str
    seconds: float

    @property
    def looked_up(self) -> bool:
        return FACT in self.text


class Callers:
    """Those who ask the same question again and again, and what they got."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._more = asyncio.Condition()
        self.seen: list[Seen] = []

    async def ask(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            asked = clock()
            answer = await self._http.post("/v1/chat/completions", json=QUESTION, timeout=60)
            body = answer.json()
            text = body["choices"][0]["message"]["content"] if answer.is_success else str(body)
            degraded = answer.headers.get("x-trivium-degraded", "")
            async with self._more:
                self.seen.append(Seen(answer.status_code, degraded, text, clock() - asked))
                self._more.notify_all()

    async def had(self, what: Callable[[Seen], bool]) -> None:
        """Wait for as many such answers, from now on, as there are callers."""
        start = len(self.seen)
        async with asyncio.timeout(120), self._more:
            await self._more.wait_for(lambda: sum(map(what, self.seen[start:])) >= CALLERS)


@asynccontextmanager
async def service(milvus: MilvusServer) -> AsyncIterator[str]:
    """An address that stays when the server comes back elsewhere, like a Kubernetes Service's."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner = await asyncio.open_connection("127.0.0.1", milvus.listen_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_questions_are_answered_while_milvus_is_dead_and_looked_up_when_it_is_back(
    milvus: MilvusServer, tmp_path: Path
) -> None:
    async with service(milvus) as uri:
        settings = RetrievalSettings(milvus_uri=uri)
        store = {"milvus_uri": uri, "registry": str(tmp_path / "registry.db")}
        made = RetrieverServer({"retrieval": store}, models.embedding_models(), unread, None)
        server: Any = InProcess(made)
        house = House(
            router=FixedRouter(decision(Route.KNOWLEDGE)),
            knowledge=RemoteKnowledge(Remote(server, "knowledge", settings.timeout_s)),
            frontier=ScriptedModel(GUESS),
            gateway={"request_timeout_s": DEADLINE_S},
            roles=QUOTES,
        )
        transport = httpx.ASGITransport(house.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            await http.put(
                "/v1/collections/default/documents", json={"documents": [DOCUMENT]}, timeout=60
            )
            async with asyncio.TaskGroup() as tasks:
                callers = Callers(http)
                asking = [tasks.create_task(callers.ask()) for _ in range(CALLERS)]
                await callers.had(lambda each: each.looked_up)
                milvus.server_proc.kill()
                milvus.server_proc.wait()
                await callers.had(lambda each: "knowledge" in each.degraded)
                await asyncio.to_thread(milvus.start)
                await callers.had(lambda each: each.looked_up)
                for caller in asking:
                    caller.cancel()
    seen = callers.seen

    assert {each.status for each in seen} == {200}
    assert max(each.seconds for each in seen) < DEADLINE_S
    for each in seen:
        assert each.looked_up != bool(each.degraded), each
        assert each.looked_up or GUESS in each.text, each
