"""Bulk ingest and reindexing, with real Ray, real embeddings and both Milvuses."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from serve_app import models
from serve_app.domain import Document
from serve_app.errors import UnprocessableDocument
from serve_app.retrieval import index, pipeline
from serve_app.retrieval.index import IngestReport
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.sources import discover
from serve_app.retrieval.stages import Model
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import BUNDLED
from tests.retrieval.bases import Base, content

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

PATHS = models.embedding_models()
WORDS = "tent boot rope stove lamp map knife coat pack sock glove hat pole bag filter rack".split()


def no_ray() -> None:
    pytest.fail("Ray is started for a few rows")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve documents of three sections each."""
    for i in range(12):
        text = "\n".join(f"# Part {j}\n{WORDS[i]} number {i} part {j}" for j in range(3))
        (tmp_path / f"doc{i:02}.md").write_text(text)
    return tmp_path


@pytest.fixture
def base(store: MilvusStore, registry: Registry) -> Base:
    return Base(store, registry)


async def ingest(
    base: Base, collection: str, folder: Path, *, dry_run: bool = False
) -> IngestReport:
    return (await run(base, collection, folder, dry_run=dry_run)).report


async def run(
    base: Base, collection: str, folder: Path, *, dry_run: bool = False
) -> pipeline.Result:
    return await pipeline.ingest(
        discover([str(folder)]),
        base.store,
        base.registry,
        collection,
        "t",
        Model(BUNDLED, PATHS[BUNDLED]),
        64,
        paths=PATHS,
        start=no_ray,
        dry_run=dry_run,
    )


async def test_runs_embed_only_what_changed_and_remove_what_is_gone(
    base: Base, collection: str, folder: Path
) -> None:
    first = await ingest(base, collection, folder)
    assert (first.documents, first.chunks, first.embedded) == (12, 36, 36)
    second = await ingest(base, collection, folder)
    assert (second.embedded, second.removed) == (0, 0)
    assert second.saved_tokens == first.embedded_tokens
    (folder / "doc00.md").write_text("# Part 0\nsomething new")
    (folder / "doc01.md").unlink()
    dry = await ingest(base, collection, folder, dry_run=True)
    assert (dry.embedded, dry.removed) == (1, 6)
    assert len(await content(base, collection)) == 36
    third = await ingest(base, collection, folder)
    assert (third.embedded, third.removed) == (1, 6)
    rows = await content(base, collection)
    assert ("doc00", 0, "something new") in rows
    assert not [row for row in rows if row[0] == "doc01"]


async def test_bad_files_are_named_and_the_rest_goes_in(
    base: Base, collection: str, folder: Path
) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 nonsense")
    (folder / "latin.md").write_bytes("caf\xe9".encode("latin-1"))
    (folder / "rows.jsonl").write_text('{"id": "good", "text": "fine"}\n{"id": 3}\n')
    (folder / "other.md").write_text("---\nid: doc00\n---\nA second one of this id.")
    result = await run(base, collection, folder)
    named = "\n".join(result.problems)
    for name in ("broken.pdf", "latin.md", "rows.jsonl, line 2", "other.md"):
        assert name in named
    assert len(result.problems) == 4
    assert result.report.documents == 13
    assert "A second one of this id." not in {
        text for _, _, text in await content(base, collection)
    }


async def test_file_that_cannot_be_read_this_time_is_not_forgotten(
    base: Base, collection: str, folder: Path
) -> None:
    await ingest(base, collection, folder)
    (folder / "doc05.md").write_bytes(b"\xff\xfe\x00")
    result = await run(base, collection, folder)
    assert result.problems
    assert [row for row in await content(base, collection) if row[0] == "doc05"]


async def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    for argument in (tmp_path, tmp_path / "nowhere", tmp_path / "*.md"):
        with pytest.raises(UnprocessableDocument, match=re.escape(argument.name)):
            discover([str(argument)])


async def test_killed_runs_are_finished_by_the_same_command(
    uri: str, base: Base, collection: str, folder: Path, tmp_path: Path
) -> None:
    """SIGKILL at five random points; then the collection equals that of an undisturbed run."""
    many = tmp_path / "many"
    many.mkdir()
    for i in range(130):  # enough for Ray to have a part in it, and for five runs not to finish
        text = "\n".join(f"# Part {j}\n{' '.join(random.choices(WORDS, k=9))}" for j in range(20))
        (many / f"doc{i:02}.md").write_text(text)
    # Milvus Lite's file has one owner at a time: these runs get one of their own.
    target = uri if "://" in uri else str(tmp_path / "killed.db")
    whole, killed = f"{collection}_whole", f"{collection}_killed"
    await asyncio.to_thread(finished, target, whole, many)
    # After so many rows of each run's own, and then anywhere in the next batch.
    points = [(rows, random.uniform(0, 0.5)) for rows in random.sample((0, 0, 1, 1, 257), 5)]
    print("killed at (rows, seconds)", points)
    for rows, seconds in points:
        await asyncio.to_thread(killed_at, target, killed, many, rows, seconds)
    embedded = await asyncio.to_thread(finished, target, killed, many)
    after = Base(MilvusStore(target, "", timeout_s=20), Registry(str(tmp_path / "registry.db")))
    try:
        wanted = await content(after, whole)
        assert 0 < embedded < len(wanted)
        assert await content(after, killed) == wanted
    finally:
        await after.store.close()
        await after.registry.close()


def command(uri: str, collection: str, folder: Path) -> list[str]:
    """Of a bulk run in a process of its own, with a Ray of its own."""
    state = str(folder.parent / "state")
    return [sys.executable, "-m", "tests.retrieval.bulk", uri, collection, str(folder), state]


def finished(uri: str, collection: str, folder: Path) -> int:
    """Let a run come to its end; how many rows it has embedded."""
    done = subprocess.run(
        command(uri, collection, folder), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def killed_at(uri: str, collection: str, folder: Path, rows: int, seconds: float) -> None:
    """Start a run; kill it, with all its processes, so long after it has written so many rows."""
    log = folder.parent / "killed.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command(uri, collection, folder), stdout=subprocess.PIPE, stderr=errors
        )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdigit() and int(line) >= rows:
                break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        assert process.returncode is None, "it ended before it could be killed: " + log.read_text()
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(process.pid)
            for each in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGKILL)
        process.wait()


async def test_document_made_of_its_rows_splits_into_the_same_rows() -> None:
    text = "intro\n# A\nalpha beta\n\ngamma delta\n## B\nunder b\n## C\nunder c\n# D\nlast"
    document = Document("doc", "Title", text, {"as_of": "2026-01-01"})

    def rows(of: Document) -> list[index.Row]:
        return index.rows(of, "t", max_tokens=3, count=lambda text: len(text.split()))

    assert rows(index.document(rows(document))) == rows(document)
