"""Ingest as jobs: over HTTP into the ledger, and carried out into a real knowledge base."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.errors import Unavailable, UnprocessableDocument
from serve_app.fetching import Content, Unfetchable
from serve_app.gateway import jobs as carrying
from serve_app.gateway.jobs import Runner
from serve_app.ledger.accounts import Accounts
from serve_app.ledger.jobs import Jobs
from serve_app.retrieval.formats import apart
from serve_app.retrieval.formats.addresses import document_id, file_name
from serve_app.settings.gateway import IngestSettings
from tests.fixtures import EMBEDS, House, prices
from tests.gateway.knowledge import LocalKnowledge

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]

SITE = "https://docs.example.com"


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


class World:
    """A gateway with jobs, and a web that they fetch from."""

    def __init__(self, knowledge: LocalKnowledge, collection: str) -> None:
        keys = [
            {
                "name": name,
                "sha256": hashlib.sha256(name.encode()).hexdigest(),
                "tenant": tenant,
                "scopes": ["chat", "ingest"],
                "groups": groups,
            }
            for name, tenant, groups in (
                ("ann", "acme", ["hr"]),
                ("bob", "acme", []),
                ("eve", "other", ["hr"]),
            )
        ]
        ingest = {"hosts": ["docs.example.com"], "max_jobs": 2, "max_urls": 5}
        self.house = House(gateway={"api_keys": keys, "ingest": ingest}, knowledge=knowledge)
        self.knowledge = knowledge
        self.web: dict[str, Content | Unfetchable] = {}
        self.fetched: list[str] = []
        self.reached = asyncio.Event()
        self.hold_at = ""
        self.jobs = Jobs(self.house.database)
        self.path = f"/v1/collections/{collection}/ingest"
        self.documents = f"/v1/collections/{collection}/documents"
        transport = httpx.ASGITransport(self.house.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    def page(self, path: str, text: str, kind: str = "text/markdown") -> str:
        self.web[SITE + path] = Content(text.encode(), kind)
        return SITE + path

    def runner(self) -> Runner:
        accounts = Accounts(self.house.book, prices())
        settings = IngestSettings(hosts=("docs.example.com",))
        return Runner(self.jobs, self.knowledge, accounts, self._fetch, settings, EMBEDS)

    async def _fetch(self, url: str) -> Content:
        self.fetched.append(url)
        if url == self.hold_at:
            self.reached.set()
            await asyncio.Event().wait()
        found = self.web.get(url, Unfetchable("its host answers 404"))
        if isinstance(found, Unfetchable):
            raise found
        return found

    async def post(self, *urls: str, who: str = "ann", **more: Any) -> dict[str, Any]:
        body = {"urls": list(urls), **more}
        answer = await self.http.post(self.path, json=body, headers=key(who))
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        assert told["status"] == "queued"
        return told

    async def get(self, job: dict[str, Any], who: str = "ann") -> dict[str, Any]:
        found = await self.http.get(f"{self.path}/{job['id']}", headers=key(who))
        told: dict[str, Any] = found.json()
        return told

    async def over(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job, when somebody has carried it out."""
        async with running(self.runner()):
            return await self.ended(job)

    async def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while True:
                told = await self.get(job)
                if told["status"] not in ("queued", "running"):
                    return told
                await asyncio.sleep(0.05)

    async def ids(self, who: str = "ann") -> list[str]:
        found = await self.http.get(self.documents, headers=key(who))
        return [each["id"] for each in found.json().get("data", [])]


@contextlib.asynccontextmanager
async def running(runner: Runner) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(runner.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
async def knowledge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalKnowledge]:
    made = LocalKnowledge(tmp_path_factory.mktemp("knowledge"))
    yield made
    await made.close()


@pytest.fixture
async def world(request: pytest.FixtureRequest, knowledge: LocalKnowledge) -> World:
    digest = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return World(knowledge, f"c{digest}")


async def test_documents_are_fetched_read_and_put_in(world: World) -> None:
    urls = [
        world.page("/hr/README.md", "North code 1111."),
        world.page("/it/README.md", "South code 2222."),
        world.page("/faq?page=2", "<p>A page.</p><img src=a.png>", "text/html"),
        f"{SITE}/gone.md",
        world.page("/odd.bin", "?", "application/octet-stream"),
    ]
    told = await world.over(await world.post(*urls))
    assert (told["status"], told["documents"], told["error"]) == ("done", 3, None)
    assert told["urls"] == {"pending": 0, "done": 3, "failed": 2}
    failed = {each["url"]: each["message"] for each in told["failed"]}
    assert "answers 404" in failed[f"{SITE}/gone.md"]
    assert "must end in one of" in failed[f"{SITE}/odd.bin"]
    (left_out,) = told["left_out"]
    assert (left_out["url"], "pictures (1)" in left_out["message"]) == (urls[2], True)
    assert await world.ids() == [
        "docs.example.com/faq?page=2",
        "docs.example.com/hr/README.md",
        "docs.example.com/it/README.md",
    ]
    listed = (await world.http.get(world.path, headers=key("ann"))).json()
    assert [each["id"] for each in listed["data"]] == [told["id"]]


async def test_two_addresses_of_one_id_are_named(world: World) -> None:
    urls = [world.page(f"/{name}.md", f"---\nid: same\n---\n{name}") for name in "ab"]
    told = await world.over(await world.post(*urls))
    (failed,) = told["failed"]
    assert (failed["url"], "'same'" in failed["message"]) == (urls[1], True)
    text = (await world.http.get(f"{world.documents}/same", headers=key("ann"))).json()
    assert text["chunks"][0]["text"] == "a"


@pytest.mark.parametrize("how", ["restarted", "killed"])
async def test_a_job_goes_on_where_it_stood(world: World, how: str) -> None:
    urls = [world.page(f"/{name}.md", f"Page {name}.") for name in "abc"]
    world.hold_at = urls[1]
    job = await world.post(*urls)
    runner = world.runner()
    if how == "killed":  # nobody says goodbye, and its lease is over one day
        runner._jobs = Left(world.house.database, clock=lambda: 1e9)
    async with running(runner):
        await asyncio.wait_for(world.reached.wait(), 60)
    assert (await world.get(job))["status"] == "running"
    world.hold_at = ""
    told = await world.over(job)
    assert (told["status"], told["urls"]["done"]) == ("done", 3)
    assert world.fetched == [urls[0], urls[1], urls[1], urls[2]]


class Left(Jobs):
    """As a gateway leaves them that has no time to."""

    async def let_go(self, job_id: str, runner: str) -> None:
        pass


async def test_a_job_is_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "_LEASE_S", 0.6)
    urls = [world.page(f"/{name}.md", f"Page {name}.") for name in "abc"]
    world.hold_at = urls[1]
    job = await world.post(*urls)
    async with running(world.runner()):
        await asyncio.wait_for(world.reached.wait(), 60)
        path = f"{world.path}/{job['id']}/cancel"
        told = (await world.http.post(path, headers=key("ann"))).json()
        assert (told["status"], told["urls"]["done"]) == ("cancelled", 1)
        after = await world.post(world.page("/d.md", "Page d."))
        assert (await world.ended(after))["status"] == "done", "the runner is not free again"
    assert world.fetched == [*urls[:2], f"{SITE}/d.md"]
    assert (await world.get(job))["status"] == "cancelled"


async def test_what_a_source_has_lost_is_removed_unless_something_failed(world: World) -> None:
    kept, lost = world.page("/kept.md", "Kept."), world.page("/lost.md", "Lost.")
    await world.over(await world.post(kept, lost, source="site"))
    told = await world.over(await world.post(kept, f"{SITE}/gone.md", source="site"))
    assert (told["removed"], len(await world.ids())) == (0, 2)
    told = await world.over(await world.post(kept, source="site"))
    assert (told["removed"], await world.ids()) == (1, ["docs.example.com/kept.md"])


async def test_a_knowledge_base_that_is_away_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "_PAUSES_S", (0.01, 0.01))
    ingest, tries = world.knowledge.ingest, []

    async def away(*args: Any) -> Any:
        tries.append(args)
        if len(tries) < 3:
            raise Unavailable("the knowledge base is not reachable")
        return await ingest(*args)

    monkeypatch.setattr(world.knowledge, "ingest", away)
    told = await world.over(await world.post(world.page("/a.md", "Page.")))
    assert (told["status"], told["urls"]["done"], len(tries)) == ("done", 1, 3)


async def test_jobs_are_their_tenants_and_groups_alone(world: World) -> None:
    url = world.page("/a.md", "Page.")
    job = await world.post(url, allow=["hr"])
    for who in ("bob", "eve"):
        for method, path in (
            ("GET", f"{world.path}/{job['id']}"),
            ("POST", f"{world.path}/{job['id']}/cancel"),
        ):
            answer = await world.http.request(method, path, headers=key(who))
            assert (answer.status_code, url in answer.text) == (404, False)
        listed = await world.http.get(world.path, headers=key(who))
        assert url not in listed.text
        assert listed.json()["data"] == []
    assert (await world.over(job))["status"] == "done"
    assert await world.ids("ann") == ["docs.example.com/a.md"]
    assert await world.ids("bob") == []
    body = {"urls": [url], "allow": ["hr"]}
    answer = await world.http.post(world.path, json=body, headers=key("bob"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (403, "allow")


@pytest.mark.parametrize(
    "url",
    [
        "http://docs.example.com/a.md",
        "https://other.example.com/a.md",
        "https://docs.example.com:8443/a.md",
        "https://user:secret@docs.example.com/a.md",
        "https://docs.example.com@evil.example/",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "file:///etc/passwd",
        "s3://bucket/a.md",
        "https://docs.example.com/a\nb",
        "docs.example.com/a.md",
    ],
)
async def test_no_other_address_is_fetched(world: World, url: str) -> None:
    body = {"urls": [f"{SITE}/a.md", url]}
    answer = await world.http.post(world.path, json=body, headers=key("ann"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "urls[1]")
    assert "gateway.ingest.hosts" in answer.json()["error"]["message"]


async def test_so_many_and_no_more(world: World) -> None:
    urls = [f"{SITE}/{number}.md" for number in range(6)]
    answer = await world.http.post(world.path, json={"urls": urls}, headers=key("ann"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "urls")
    for _ in range(2):
        await world.post(urls[0])
    answer = await world.http.post(world.path, json={"urls": urls[:1]}, headers=key("ann"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")


def test_ids_and_names_of_addresses() -> None:
    assert document_id("https://a.example/x%20y/?q=1#top") == "a.example/x y/?q=1"
    assert document_id("https://a.example") == "a.example/"
    long = [document_id(f"https://a.example/{'é' * 300}/{end}") for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(each.encode()) <= 200 for each in long)
    assert file_name("https://a.example/x", "text/html") == "a.example/x.html"
    assert file_name("https://a.example/x.md", "text/plain") == "a.example/x.md"
    assert file_name("https://a.example/v1.2", "text/html") == "a.example/v1.2.html"


async def test_a_file_that_exhausts_its_reader_exhausts_nothing_else() -> None:
    with pytest.raises(UnprocessableDocument, match=r"within 0\.01 s"):
        await apart.read("a.txt", b"text", "a", 0.01)
    with pytest.raises(UnprocessableDocument, match="holds no text"):
        await apart.read("a.txt", b" ", "a", 30)
