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
from serve_app.domain import Document, SearchQuery
from serve_app.errors import NotFound, UnprocessableDocument
from serve_app.retrieval import index, pipeline
from serve_app.retrieval.embedder import EmbeddingModels
from serve_app.retrieval.index import IngestReport
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.sources import discover
from serve_app.retrieval.stages import Model
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import BUNDLED

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
def retriever(store: MilvusStore) -> Retriever:
    return Retriever(store, EmbeddingModels(BUNDLED, PATHS), 64, Rules())


async def ingest(
    store: MilvusStore, collection: str, folder: Path, *, dry_run: bool = False
) -> IngestReport:
    return (await run(store, collection, folder, dry_run=dry_run)).report


async def run(
    store: MilvusStore, collection: str, folder: Path, *, dry_run: bool = False
) -> pipeline.Result:
    model = Model(BUNDLED, PATHS[BUNDLED])
    return await pipeline.ingest(
        discover([str(folder)]),
        store,
        collection,
        "t",
        model,
        64,
        paths=PATHS,
        start=no_ray,
        dry_run=dry_run,
    )


async def content(store: MilvusStore, collection: str) -> set[tuple[str, int, str]]:
    """Every row: document, place, text; asserts that none is there twice."""
    documents = await store.rows(await store.index(collection))
    rows = [(row.document_id, row.ordinal, row.text) for rows in documents for row in rows]
    assert len(rows) == len(set(rows))
    return set(rows)


async def test_runs_embed_only_what_changed_and_remove_what_is_gone(
    store: MilvusStore, collection: str, folder: Path
) -> None:
    first = await ingest(store, collection, folder)
    assert (first.documents, first.chunks, first.embedded) == (12, 36, 36)
    second = await ingest(store, collection, folder)
    assert (second.embedded, second.removed) == (0, 0)
    assert second.saved_tokens == first.embedded_tokens
    (folder / "doc00.md").write_text("# Part 0\nsomething new")
    (folder / "doc01.md").unlink()
    dry = await ingest(store, collection, folder, dry_run=True)
    assert (dry.embedded, dry.removed) == (1, 6)
    assert len(await content(store, collection)) == 36
    third = await ingest(store, collection, folder)
    assert (third.embedded, third.removed) == (1, 6)
    rows = await content(store, collection)
    assert ("doc00", 0, "something new") in rows
    assert not [row for row in rows if row[0] == "doc01"]


async def test_bad_files_are_named_and_the_rest_goes_in(
    store: MilvusStore, collection: str, folder: Path
) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 nonsense")
    (folder / "latin.md").write_bytes("caf\xe9".encode("latin-1"))
    (folder / "rows.jsonl").write_text('{"id": "good", "text": "fine"}\n{"id": 3}\n')
    (folder / "other.md").write_text("---\nid: doc00\n---\nA second one of this id.")
    (folder / "page.html").write_text("<p>seen<p hidden>unseen</p><img src=a.png>")
    result = await run(store, collection, folder)
    named = "\n".join(result.problems)
    for name in ("broken.pdf", "latin.md", "rows.jsonl, line 2", "other.md"):
        assert name in named
    assert len(result.problems) == 4
    (left_out,) = result.left_out
    assert left_out.endswith("page.html: left out hidden elements (1), pictures (1)")
    assert result.report.documents == 14
    assert "A second one of this id." not in {
        text for _, _, text in await content(store, collection)
    }


async def test_file_that_cannot_be_read_this_time_is_not_forgotten(
    store: MilvusStore, collection: str, folder: Path
) -> None:
    await ingest(store, collection, folder)
    (folder / "doc05.md").write_bytes(b"\xff\xfe\x00")
    result = await run(store, collection, folder)
    assert result.problems
    assert [row for row in await content(store, collection) if row[0] == "doc05"]


async def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    for argument in (tmp_path, tmp_path / "nowhere", tmp_path / "*.md"):
        with pytest.raises(UnprocessableDocument, match=re.escape(argument.name)):
            discover([str(argument)])


async def test_killed_runs_are_finished_by_the_same_command(
    uri: str, store: MilvusStore, collection: str, folder: Path, tmp_path: Path
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
    after = MilvusStore(target, "", timeout_s=20)
    try:
        wanted = await content(after, whole)
        assert 0 < embedded < len(wanted)
        assert await content(after, killed) == wanted
    finally:
        await after.close()


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


async def test_reindex_under_load_loses_and_empties_no_search(
    store: MilvusStore, retriever: Retriever, collection: str, folder: Path
) -> None:
    await ingest(store, collection, folder)
    stop = asyncio.Event()
    searches = 0

    async def client(number: int) -> None:
        nonlocal searches
        while not stop.is_set():
            word = WORDS[number % 12]
            found = await retriever.search(collection, "t", SearchQuery(word, 3))
            assert found, word
            searches += 1

    clients = [asyncio.create_task(client(i)) for i in range(16)]
    before = await store.index(collection)
    model = Model(BUNDLED, PATHS[BUNDLED])
    made, result = await pipeline.reindex(store, collection, model, 32, start=no_ray)
    late = Document("late", "Late", "written while the index was changed")
    await retriever.ingest(collection, "t", [late])
    stop.set()
    await asyncio.gather(*clients)
    assert searches > 16
    assert made.version == before.version + 1
    assert result.report.embedded == 36
    after = await store.index(collection)
    assert (after.name, after.chunk_tokens) == (made.name, 32)
    assert len(await content(store, collection)) == 37
    back = await pipeline.rollback(store, collection)
    assert back.name == before.name == (await store.index(collection)).name
    with pytest.raises(NotFound):
        await pipeline.rollback(store, collection)


async def test_what_is_written_during_a_reindex_is_carried_over(
    store: MilvusStore, retriever: Retriever, collection: str, folder: Path
) -> None:
    await ingest(store, collection, folder)
    writing = asyncio.Event()

    async def writer() -> int:
        written = 0
        while not writing.is_set() and written < 200:  # more would need a Ray
            document = Document(f"live{written}", "", f"live row {written}")
            await retriever.ingest(collection, "t", [document])
            written += 1
        return written

    task = asyncio.create_task(writer())
    await pipeline.reindex(store, collection, Model(BUNDLED, PATHS[BUNDLED]), 32, start=no_ray)
    writing.set()
    written = await task
    assert written > 0
    page = await retriever.documents(collection, "t", "", 1000)
    names = {each["id"] for each in page.documents}
    assert {f"live{i}" for i in range(written)} <= names


_CODE = "\n".join(["```py", *(f"# {number}\n" for number in range(20)), "```"])
_TABLE = "\n".join(["| a | b |", "|---|---|", *(f"| {n} | {n} |" for n in range(20))])


@pytest.mark.parametrize(
    ("text", "max_tokens"),
    [
        ("intro\n# A\nalpha beta\n\ngamma delta\n## B\nunder b\n## C\nunder c\n# D\nlast", 3),
        (f"# A\n{_CODE}\n# B\nlast", 20),
        (f"# A\nbefore\n\n{_TABLE}\n\nafter | it\n# B\nlast", 30),
        (f"# A\nbefore\n\n{_TABLE}\n\nafter | it\n# B\nlast", 1000),
        ("# A\nbefore\n\n---\n\nafter\n# B\nlast", 1000),
        ("Title\n===\n~~~\n# x\n~~~\nPart\n---\nlast", 1000),
    ],
)
async def test_document_made_of_its_rows_splits_into_the_same_rows(
    text: str, max_tokens: int
) -> None:
    document = Document("doc", "Title", text, {"as_of": "2026-01-01"})

    def rows(of: Document) -> list[index.Row]:
        return index.rows(of, "t", max_tokens=max_tokens, count=lambda text: len(text.split()))

    assert rows(index.document(rows(document))) == rows(document)


def test_what_is_embedded_fits_into_what_the_model_reads() -> None:
    def count(text: str) -> int:
        return len(text.split())

    document = Document("doc", "A title", "# " + "heading " * 10 + "\n" + "word " * 100)
    made = index.rows(document, "t", max_tokens=40, count=count, window=40)
    assert max(row.tokens for row in made) == 40
    assert sum(count(row.text) for row in made) == 100
    long = Document("doc", "title " * 100, "word " * 100)
    made = index.rows(long, "t", max_tokens=40, count=count, window=40)
    assert {count(row.text) for row in made} == {20}
