"""`trivium sync`, with a real knowledge base: what a source has is what the collection has."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serve_app.cli import sync
from serve_app.errors import SettingsError
from serve_app.fetching import Content, Unfetchable
from serve_app.ledger.database import Database
from serve_app.ledger.sources import Sources, Standing
from serve_app.settings import from_args
from tests.cli.conftest import Run, Serve
from tests.fixtures import House
from tests.gateway.knowledge import LocalKnowledge

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SITE = "https://site.example"
MAP = f"{SITE}/sitemap.xml"


class World:
    """A stack, settings with one source, and `trivium sync` between them."""

    def __init__(self, run: Run, url: str, folder: Path) -> None:
        self._run = run
        self._url = url
        self.folder = folder

    def source(self, **source: Any) -> None:
        settings = {
            "state_dir": str(self.folder / "state"),
            "sync": {"sources": {"one": {"collection": "kept", **source}}},
        }
        (self.folder / "settings.yaml").write_text(yaml.safe_dump(settings))

    def sync(self, *options: str) -> dict[str, Any]:
        config = str(self.folder / "settings.yaml")
        outcome = self._run("sync", "--config", config, "--url", self._url, "--json", *options)
        assert outcome.out, outcome.err
        told: dict[str, Any] = json.loads(outcome.out)
        assert outcome.code == (1 if told["problems"] else 0)
        return told

    def texts(self) -> dict[str, str]:
        """Of every document in the collection, by its id."""
        path = f"{self._url}/v1/collections/kept/documents"
        found = httpx.get(path).json().get("data", [])
        ids = [each["id"] for each in found]
        return {
            each: httpx.get(f"{path}/{each.replace('/', '%2F')}").json()["chunks"][0]["text"]
            for each in ids
        }

    def standing(self) -> Standing:
        async def read() -> Standing:
            database = Database(str(self.folder / "state" / "ledger.db"))
            found = await Sources(database).all()
            await database.close()
            return found["one"]

        return asyncio.run(read())


@pytest.fixture
def world(run: Run, serve: Serve, tmp_path: Path) -> World:
    return World(run, serve(House(knowledge=LocalKnowledge(tmp_path))), tmp_path)


def test_a_table_is_followed_by_its_cursor(world: World) -> None:
    path = world.folder / "shop.db"
    table = sqlite3.connect(path)
    table.execute("CREATE TABLE articles (id INTEGER, body TEXT, name TEXT, at INTEGER, who TEXT)")
    rows = [(1, "A blue tent.", "Tent", 10, None), (2, "A brown boot.", "Boot", 20, "hr, legal")]
    table.executemany("INSERT INTO articles VALUES (?, ?, ?, ?, ?)", rows)
    table.commit()
    columns = {"text": "body", "title": "name", "cursor": "at", "allow": "who"}
    world.source(table={"url": f"sqlite:///{path}", "table": "articles", **columns})
    assert world.sync()["documents"] == 2
    assert world.texts() == {"one/1": "A blue tent.", "one/2": "A brown boot."}
    assert world.sync()["documents"] == 1, "that of the last moment, which is not embedded again"
    table.execute("UPDATE articles SET body = 'A green tent.', at = 30 WHERE id = 1")
    table.execute("DELETE FROM articles WHERE id = 2")
    table.commit()
    dry = world.sync("--dry-run")
    assert (dry["documents"], dry["gone"], world.texts()["one/1"]) == (1, ["one/2"], "A blue tent.")
    assert world.sync()["removed"] == 1
    assert world.texts() == {"one/1": "A green tent."}
    # An empty table is a mistake more often than not.
    table.execute("DELETE FROM articles")
    table.commit()
    assert "empty" in world.sync()["problems"][0]
    assert world.texts() == {"one/1": "A green tent."}
    table.close()


def test_a_table_that_is_not_there_is_a_failure_that_is_counted(world: World) -> None:
    sqlite3.connect(world.folder / "shop.db").close()
    world.source(table={"url": f"sqlite:///{world.folder}/shop.db", "table": "nowhere"})
    for failures in (1, 2):
        assert "nowhere" in world.sync()["problems"][0]
        assert world.standing().failures == failures
    assert world.standing().synced_at is None


def site(pages: dict[str, tuple[str, str]]) -> dict[str, Content]:
    """Texts and dates by path, as a website with a sitemap that is packed."""
    entries = "".join(
        f"<url><loc>{SITE}{path}</loc><lastmod>{when}</lastmod></url>"
        for path, (_, when) in pages.items()
    )
    packed = gzip.compress(
        '<?xml version="1.0"?><!DOCTYPE u [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
        f"{entries}<url><loc>https://other.example/&x;</loc></url></urlset>".encode()
    )
    index = f"<sitemapindex><sitemap><loc>{SITE}/all.xml.gz</loc></sitemap></sitemapindex>"
    html = {
        SITE + path: Content(f"<html><body><p>{text}</p></body></html>".encode(), "text/html")
        for path, (text, _) in pages.items()
    }
    return {MAP: Content(index.encode()), f"{SITE}/all.xml.gz": Content(packed), **html}


def test_a_website_is_followed_by_its_sitemap(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    web: dict[str, Content] = {}
    asked: list[str] = []
    monkeypatch.setattr(sync, "fetch", fetching(web, asked))
    world.source(sitemap=MAP, allow=["staff"])
    pages = {
        "/docs/index.html": ("Start.<img src=a>", "2026-01-01"),
        "/it/index.html": ("Help.", ""),
    }
    web |= site(pages)
    first = world.sync()
    assert first["documents"] == 2
    assert first["left_out"] == [f"{SITE}/docs/index.html: left out pictures (1)"]
    assert sorted(world.texts()) == ["site.example/docs/index.html", "site.example/it/index.html"]
    asked.clear()
    assert world.sync()["problems"] == []
    assert asked == [MAP, f"{SITE}/all.xml.gz", f"{SITE}/it/index.html"]
    # A page that fails takes nothing away; then one that is gone goes.
    gone = web.pop(f"{SITE}/it/index.html")
    assert "404" in world.sync()["problems"][0]
    assert len(world.texts()) == 2
    web[f"{SITE}/it/index.html"] = gone
    del pages["/docs/index.html"]
    web |= site(pages)
    assert world.sync()["gone"] == ["site.example/docs/index.html"]
    assert list(world.texts().values()) == ["Help."]
    web[MAP] = Content(b"<html>")
    assert "no sitemap" in world.sync()["problems"][0]
    assert world.standing().failures == 1


def fetching(web: dict[str, Content], asked: list[str]) -> Callable[..., Awaitable[Content]]:
    async def fetch(url: str, **_: Any) -> Content:
        asked.append(url)
        if url not in web:
            raise Unfetchable("its host answers 404")
        return web[url]

    return fetch


def test_files_are_followed_wherever_they_lie(world: World) -> None:
    docs = world.folder / "docs"
    (docs / "hr").mkdir(parents=True)
    (docs / "hr" / "README.md").write_text("North.")
    (docs / "old.md").write_text("Old.")
    world.source(files=str(docs))
    assert world.sync()["documents"] == 2
    (docs / "old.md").unlink()
    docs.rename(world.folder / "moved")
    world.source(files=str(world.folder / "moved"))
    told = world.sync()
    assert (told["problems"], told["removed"]) == ([], 1)
    assert world.texts() == {"hr/README": "North."}
    assert world.standing().lag(world.standing().synced_at or 0) == 0


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({}, "one of files, sitemap and table"),
        ({"files": "/a", "sitemap": MAP}, "one of files, sitemap and table"),
        ({"sitemap": "http://site.example/sitemap.xml"}, "sitemap"),
        ({"table": {"url": "postgresql://ann:secret@host/db", "table": "t"}}, "password"),
        ({"table": {"url": "mysql://ann@host/db", "table": "t"}}, "postgresql"),
        ({"table": {"url": "sqlite:///a.db", "table": "t; DROP TABLE x"}}, "table"),
        ({"files": "/a", "allow": ["a,b"]}, "group"),
    ],
)
def test_sources_that_are_none_are_refused(source: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        from_args({"sync": {"sources": {"one": source}}})


def test_a_password_stays_out_of_what_is_handed_on() -> None:
    table = {"url": "postgresql://ann@host/db", "table": "t", "password": "hush"}
    settings = from_args({"sync": {"sources": {"one": {"table": table}}}})
    assert "hush" not in repr(settings.to_args())
    assert "postgresql" in repr(settings.to_args())
