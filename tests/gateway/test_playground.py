"""What documents say is text in the playground, whatever it looks like."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import select
from websockets.asyncio.client import ClientConnection, connect

from serve_app.domain import Chunk, RequestContext, Route, SearchQuery
from serve_app.ledger.tables import answers
from tests.fixtures import FixedKnowledge, FixedRouter, House, chunk, decision

pytestmark = pytest.mark.usefixtures("clean_environment")

# Each would leave a mark on the page if it were taken for markup.
MARKUP = [
    "<script>window.marked = 1</script>",
    "<img src=x onerror='window.marked = 1'>",
    "</div></article><iframe srcdoc='<script>parent.marked = 1</script>'></iframe>",
    "<svg onload='window.marked = 1'><a href='javascript:window.marked = 1'>tent</a></svg>",
    "[tent](javascript:window.marked=1) ![tent](http://127.0.0.1:9/tent.png)",
    "<style>article { display: none }</style>",
    "<meta http-equiv='refresh' content='0; url=http://127.0.0.1:9/'>",
    "${window.marked = 1} {{window.marked = 1}}",
]


class Hostile(FixedKnowledge):
    """To a question about tent 3, a chunk whose text, title, id and time are the third mark-up."""

    async def search(
        self, context: RequestContext, collection: str, query: SearchQuery
    ) -> list[Chunk]:
        number = re.search(r"\d", query.text)
        if number is None:
            return []
        markup = MARKUP[int(number.group())]
        return [chunk(f"Tent {markup}", f"tent {markup}", title=f"Tent {markup}", as_of=markup)]


def house() -> House:
    return House(
        router=FixedRouter(decision(Route.KNOWLEDGE)),
        knowledge=Hostile([chunk(MARKUP[0])]),
        answers="quote",
    )


async def test_page_may_load_nothing_and_talk_to_its_own_server_only() -> None:
    transport = httpx.ASGITransport(house().app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        page = await client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy


def test_script_of_the_page_has_no_way_to_make_markup_of_text() -> None:
    script = files("serve_app.gateway").joinpath("playground.html").read_text("utf-8")
    sinks = (
        "innerHTML outerHTML insertAdjacentHTML document.write srcdoc eval( Function( setAttribute"
    )
    assert [each for each in sinks.split() if each in script] == []


async def test_cited_document_is_never_taken_for_a_page() -> None:
    transport = httpx.ASGITransport(house().app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        shown = await client.get("/v1/collections/default/documents/x")
    assert shown.headers["content-type"] == "application/json"
    assert shown.headers["x-content-type-options"] == "nosniff"


@contextlib.asynccontextmanager
async def served(house: House) -> AsyncIterator[str]:
    """The house at a real port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(house.app, log_level="error"))
        task = asyncio.create_task(server.serve([listening]))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[ClientConnection]:
    """A page of a headless Chromium, spoken to by its DevTools protocol."""
    process = await asyncio.create_subprocess_exec(
        "chromium",
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        announced = profile / "DevToolsActivePort"
        while not (announced.exists() and announced.read_text().count("\n")):
            assert process.returncode is None
            await asyncio.sleep(0.05)
        port = announced.read_text().split()[0]
        async with httpx.AsyncClient() as http:
            pages = (await http.get(f"http://127.0.0.1:{port}/json/list")).json()
        address = next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page")
        async with connect(address, max_size=None) as page:
            yield page
    finally:
        process.terminate()
        await process.wait()


async def command(page: ClientConnection, method: str, **params: Any) -> dict[str, Any]:
    await page.send(json.dumps({"id": 1, "method": method, "params": params}))
    while "id" not in (answer := json.loads(await page.recv())):
        pass
    assert "error" not in answer, answer
    result: dict[str, Any] = answer["result"]
    return result


async def evaluate(page: ClientConnection, expression: str) -> Any:
    answer = await command(
        page, "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
    )
    assert "exceptionDetails" not in answer, answer
    return answer["result"].get("value")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium here")
async def test_browser_shows_it_as_it_is_written(tmp_path: Path) -> None:
    async with served(house()) as url, browser(tmp_path / "profile") as page:
        await command(page, "Page.navigate", url=url)
        while not await evaluate(page, "document.readyState === 'complete' && typeof ask"):
            pass
        before = await evaluate(page, "document.querySelectorAll('*').length")
        for number in range(len(MARKUP)):
            await evaluate(page, f"ask('tent {number}?')")
        texts = await evaluate(
            page, "[...document.querySelectorAll('.answer')].map((each) => each.textContent)"
        )
        links = await evaluate(
            page,
            "[...document.querySelectorAll('.sources a')].map((a) => [a.href, a.textContent])",
        )
        made = await evaluate(
            page,
            "[...new Set([...document.querySelectorAll('section *')].map((e) => e.localName))]",
        )
        assert await evaluate(page, "window.marked") is None
        assert await evaluate(page, "document.querySelectorAll('*').length") > before
        assert await evaluate(page, "location.href") == f"{url}/"
        # A link goes to the document, which is JSON.
        await command(page, "Page.navigate", url=links[0][0])
        while not await evaluate(page, "document.readyState === 'complete'"):
            pass
        assert await evaluate(page, "document.contentType") == "application/json"
        assert await evaluate(page, "window.marked") is None
    assert sorted(made) == ["a", "article", "button", "div", "li", "ol", "span"]
    for text, (link, title), markup in zip(texts, links, MARKUP, strict=True):
        assert f"Tent {markup}" in text
        assert markup in title
        assert link.startswith(f"{url}/v1/collections/default/documents/tent")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium here")
async def test_an_answer_is_judged_by_a_click(tmp_path: Path) -> None:
    asked = house()
    async with served(asked) as url, browser(tmp_path / "profile") as page:
        await command(page, "Page.navigate", url=url)
        while not await evaluate(page, "document.readyState === 'complete' && typeof ask"):
            pass
        await evaluate(page, "ask('tent 0?')")
        await evaluate(page, "document.querySelector('.judge .bad').click()")
        while await evaluate(page, "document.querySelector('.judge .bad') !== null"):
            pass
        noted = await evaluate(page, "document.querySelector('.judge').textContent")
    assert noted == " · noted as bad"
    chosen = select(answers.c.good, answers.c.judge).where(answers.c.api_key != "warm-up")
    rows = await asked.database.read(lambda it: it.execute(chosen).all())
    assert [tuple(row) for row in rows] == [(False, "caller")]
