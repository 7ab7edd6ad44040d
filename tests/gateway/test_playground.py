"""What documents say is text in the playground, whatever it looks like."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
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

from serve_app.domain import Chunk, Delta, RequestContext, Route, SearchQuery
from serve_app.ledger.tables import SERVED, answers
from tests.fixtures import (
    QUOTES,
    FixedKnowledge,
    FixedRouter,
    House,
    ScriptedModel,
    chunk,
    decision,
)

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
        roles=QUOTES,
    )


def client_of(house: House) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(house.app)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


def policy_of(page: httpx.Response) -> dict[str, list[str]]:
    """The directives of a page's Content-Security-Policy."""
    parts = (part.split() for part in page.headers["content-security-policy"].split(";"))
    return {name: values for name, *values in parts}


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_page_loads_nothing_from_elsewhere_and_is_framed_by_nobody(path: str) -> None:
    async with client_of(house()) as client:
        page = await client.get(path)
        policy = policy_of(page)
        assert policy["default-src"] == ["'none'"]
        assert policy["connect-src"] == ["'self'"]
        assert policy["frame-ancestors"] == ["'none'"]
        assert page.headers["x-frame-options"] == "DENY"
        assert "'unsafe-inline'" not in policy["script-src"]
        # Every inline script is allowed by its own hash.
        for script in re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy["script-src"]
        assert not re.findall(r"<[^>]+ on\w+=", page.text)
        loaded = re.findall(r"""<(?:script|link)[^>]* (?:src|href)=["']([^"']+)""", page.text)
        for address in loaded:
            assert address.startswith(("/docs/", "data:")), address
            if address.startswith("/"):
                asset = await client.get(address)
                assert asset.status_code == 200
                assert len(asset.content) > 100_000
                assert asset.headers["content-type"].startswith(("text/javascript", "text/css"))
        assert bool(loaded) is (path == "/docs")


async def test_description_of_the_api_says_where_the_key_goes() -> None:
    async with client_of(house()) as client:
        described = (await client.get("/openapi.json")).json()
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["security"] == [{"HTTPBearer": []}], (method, path)


def test_key_of_the_page_is_forgotten_with_its_tab() -> None:
    page = files("serve_app.gateway").joinpath("playground.html").read_text("utf-8")
    assert 'type="password"' in page
    assert "sessionStorage" in page
    for longer in ("localStorage", "document.cookie", "indexedDB"):
        assert longer not in page


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
async def test_in_a_house_with_keys_the_page_asks_for_one_and_sends_it(tmp_path: Path) -> None:
    key = {"name": "ann", "sha256": hashlib.sha256(b"secret").hexdigest()}
    closed = House(gateway={"api_keys": [key]})
    async with served(closed) as url, browser(tmp_path / "profile") as page:
        await command(page, "Page.navigate", url=url)
        while not await evaluate(page, "document.readyState === 'complete' && typeof ask"):
            pass
        await evaluate(page, "ask('hi')")
        refused = await evaluate(page, "document.querySelector('.facts').textContent")
        assert "send an API key" in refused
        assert await evaluate(page, "document.activeElement.id") == "key"
        await evaluate(page, "document.querySelector('#key').value = 'secret'")
        await evaluate(page, "document.querySelector('#key').onchange()")
        await evaluate(page, "ask('hi')")
        said = await evaluate(page, "[...document.querySelectorAll('.answer')].at(-1).textContent")
        assert said == "Hello there."
        assert await evaluate(page, "sessionStorage.getItem('trivium-key')") == "secret"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium here")
async def test_a_refusal_is_shown(tmp_path: Path) -> None:
    declines = ScriptedModel(Delta(refusal="I can't help.", finish_reason="stop"))
    asked = House(router=FixedRouter(decision(Route.FRONTIER)), frontier=declines)
    async with served(asked) as url, browser(tmp_path / "profile") as page:
        await command(page, "Page.navigate", url=url)
        while not await evaluate(page, "document.readyState === 'complete' && typeof ask"):
            pass
        await evaluate(page, "ask('hi')")
        shown = await evaluate(page, "document.querySelector('.answer').textContent")
    assert shown == "I can't help."


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium here")
async def test_a_road_that_headers_could_not_wait_for_is_told_at_the_end(tmp_path: Path) -> None:
    asked = House()
    decided = asyncio.Event()
    decide = asked.router.decide

    async def slowly(*arguments: Any) -> Any:
        await decided.wait()
        return await decide(*arguments)

    asked.router.decide = slowly  # type: ignore[assignment,method-assign]
    async with served(asked) as url, browser(tmp_path / "profile") as page:
        await command(page, "Page.navigate", url=url)
        while not await evaluate(page, "document.readyState === 'complete' && typeof ask"):
            pass
        # Headers are there once the page reads the body.
        await evaluate(
            page,
            "const real = events; globalThis.reading = false; "
            "events = (body) => { reading = true; return real(body); }; "
            "globalThis.asking = ask('hi'); true",
        )
        while not await evaluate(page, "reading"):
            pass
        assert await evaluate(page, "document.querySelector('.facts').textContent") == "…"
        decided.set()
        told = await evaluate(
            page, "asking.then(() => document.querySelector('.facts').textContent)"
        )
    assert told.startswith("expert · confidence 0.800")


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
    # The feedback itself is a request with a row, and no answer.
    asking = (answers.c.api_key != "warm-up") & (answers.c.status != SERVED)
    chosen = select(answers.c.good, answers.c.judge).where(asking)
    rows = await asked.database.read(lambda it: it.execute(chosen).all())
    assert [tuple(row) for row in rows] == [(False, "caller")]
