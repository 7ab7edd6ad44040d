"""`trivium ingest`, into a store of its own and over HTTP: both do the same with the same files."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.retrieval.index import Row, row_ids
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.store import MilvusStore
from tests.cli.conftest import Outcome, Run, Serve
from tests.fixtures import House
from tests.gateway.knowledge import LocalKnowledge

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

Ingest = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    for name, text in {
        "hr/README.md": "North code 1111.",
        "it/README.md": "South code 2222.",
        "rows.csv": "topic,what\ntents,blue\nboots,brown",
        "own.md": "---\nid: its-own\n---\nNamed by itself.",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


class Way:
    """A way in, and what is there afterwards."""

    def __init__(self, run: Run, options: list[str], folder: Path) -> None:
        self._run = run
        self._options = options
        self._folder = folder

    def listed(self) -> dict[str, str]:
        """Texts of all documents by their ids."""
        found = content(self._folder)
        return {each[0].document_id: " ".join(row.text for row in each) for each in found}

    def allowed(self) -> dict[str, tuple[str, ...]]:
        """Whom each document is for."""
        return {each[0].document_id: each[0].allow for each in content(self._folder)}

    def ingest(self, *arguments: object) -> tuple[int, dict[str, Any], str]:
        given = [*map(str, arguments), *self._options, "--json"]
        outcome = self._run("ingest", *given)
        assert outcome.out, outcome.err
        return outcome.code, json.loads(outcome.out), outcome.err


@pytest.fixture(params=["local", "http"])
def way(
    request: pytest.FixtureRequest,
    run: Run,
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Way]:
    if request.param == "http":
        knowledge = LocalKnowledge(tmp_path)
        yield Way(run, ["--url", serve(House(knowledge=knowledge))], tmp_path)
    else:
        monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path))
        config = tmp_path / "settings.yaml"
        config.write_text("{}")
        yield Way(run, ["--config", str(config)], tmp_path)


def content(folder: Path) -> list[list[Row]]:
    """All documents, read from a copy of the database."""
    copy = folder / uuid.uuid4().hex  # Milvus Lite opens no path anew in one process
    shutil.copytree(folder / "milvus.db", copy / "milvus.db")

    async def read() -> list[list[Row]]:
        store = MilvusStore(str(copy / "milvus.db"), "", timeout_s=60)
        registry = Registry(str(folder / "milvus.registry.db"))
        try:
            found = await registry.collections.get("default")
            assert found is not None
            assert found.in_force is not None
            keys = [each.key for each in await registry.documents.page("default", "default")]
            copies = await registry.documents.copies(found.in_force.name, keys)
            rows = [
                [each.row for each in await store.stored(found.in_force, row_ids(*parts))]
                for parts in ((e.key, e.version, e.chunks) for e in copies.values())
            ]
            return [sorted(each, key=lambda row: row.ordinal) for each in rows]
        finally:
            await registry.close()
            await store.close()

    return asyncio.run(read())


def test_same_names_in_two_folders_are_two_documents_and_what_is_gone_goes(
    way: Way, folder: Path
) -> None:
    code, report, _ = way.ingest(folder)
    assert (code, report["documents"], report["failed"]) == (0, 5, [])
    there = way.listed()
    assert sorted(there) == ["hr/README", "it/README", "its-own", "rows#1", "rows#2"]
    assert there["hr/README"] == "North code 1111."
    (folder / "it" / "README.md").unlink()
    dry_code, dry, _ = way.ingest(folder, "--dry-run")
    assert (dry_code, dry["removed"]) == (0, 1)
    assert "it/README" in way.listed()
    code, report, _ = way.ingest(folder)
    assert (code, report["removed"]) == (0, 1)
    assert sorted(way.listed()) == ["hr/README", "its-own", "rows#1", "rows#2"]


def test_an_id_that_another_one_has_is_named_and_nothing_is_lost(way: Way, folder: Path) -> None:
    (folder / "hr" / "README.txt").write_text("Another text of this name.")
    (folder / "rows.jsonl").write_text('{"id":"a","text":"one"}\n{"id":"a","text":"two"}')
    code, report, err = way.ingest(folder)
    assert code == 1
    assert [each.split(": ")[0][-10:] for each in report["failed"]] == ["README.txt", "rows.jsonl"]
    assert "'hr/README'" in err
    assert way.listed()["a"] == "one"
    # The same name below another source, in a run of its own.
    other = folder.parent / "other"
    shutil.copytree(folder / "it", other / "hr")
    code, report, err = way.ingest(other)
    assert code == 1
    assert f"is the id of a document of {folder}" in err
    assert way.listed()["hr/README"] == "North code 1111."
    # What has moved says so.
    code, report, _ = way.ingest(other, "--source", folder)
    assert (code, report["failed"]) == (0, [])
    assert way.listed() == {"hr/README": "South code 2222."}


def test_what_cannot_be_read_takes_nothing_away(way: Way, folder: Path) -> None:
    way.ingest(folder)
    before = way.listed()
    (folder / "rows.csv").write_bytes(b"a,a\n1,2\n")
    (folder / "own.md").unlink()
    code, report, _ = way.ingest(folder)
    assert (code, report["removed"], len(report["failed"])) == (1, 0, 1)
    assert way.listed() == before


def test_ids_that_no_url_can_name_are_named(way: Way, folder: Path) -> None:
    (folder / "ids.jsonl").write_text('{"id":"a\\nb","text":"one"}\n{"id":"ok","text":"two"}')
    (folder / "hr" / "line\nbreak.md").write_text("Text.")
    code, report, _ = way.ingest(folder)
    assert (code, len(report["failed"])) == (1, 2)
    assert "ok" in way.listed()


def test_whom_documents_are_for_comes_from_files_and_options(way: Way, folder: Path) -> None:
    (folder / "own.md").write_text("---\nallow: [legal, board]\n---\nFor two.")
    (folder / "hr" / "README.md").write_text("---\nallow: hr\n---\nFor one.")
    (folder / "rows.csv").write_text('topic,allow\ntents,"hr, legal"\nboots,')
    (folder / "rows.jsonl").write_text(
        '{"id":"a","text":"one","allow":["x"]}\n{"id":"b","text":"t","allow":"x,y"}\n'
        '{"id":"c","text":"t","allow":{"x":1}}\n{"id":"d","text":"t","allow":["*"]}'
    )
    code, report, _ = way.ingest(folder, "--allow", "staff", "--allow", "temps")
    assert (code, len(report["failed"])) == (1, 2), report
    assert way.allowed() == {
        "own": ("legal", "board"),
        "hr/README": ("hr",),
        "it/README": ("staff", "temps"),
        "rows#1": ("hr", "legal"),
        "rows#2": ("staff", "temps"),
        "a": ("x",),
        "b": ("x", "y"),
    }
