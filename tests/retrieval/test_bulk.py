"""Bulk ingest and reindexing, with real Ray, real embeddings and both Milvuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from loadtest.words import Models
from serve_app.domain import Document
from serve_app.errors import Unavailable, UnprocessableDocument
from serve_app.retrieval import bulk, index
from serve_app.retrieval.index import IngestReport, Stored
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Index
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.sources import File, discover, listed
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import RetrievalSettings, Settings
from tests.retrieval.bases import Base, content

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

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


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process embed by hashed words; those in processes of their own by a model."""
    monkeypatch.setattr(bulk, "LazyModels", lambda paths, run: Models())


@pytest.fixture
def base(store: MilvusStore, registry: Registry) -> Base:
    return Base(store, registry)


async def ingest(
    base: Base, collection: str, folder: Path, *, dry_run: bool = False, verify: bool = False
) -> IngestReport:
    return (await run(base, collection, folder, dry_run=dry_run, verify=verify)).report


async def run(
    base: Base,
    collection: str,
    *folders: Path,
    source: str | None = None,
    allow: Sequence[str] = (),
    dry_run: bool = False,
    verify: bool = False,
    on_progress: bulk.Progress = lambda step: None,
) -> bulk.Result:
    return await bulk.ingest(
        listed([str(each) for each in folders], source, allow),
        base.store,
        base.registry,
        collection,
        "t",
        Settings(retrieval=RetrievalSettings(chunk_tokens=64, embedding_model="words-64")),
        paths={},
        start=no_ray,
        dry_run=dry_run,
        verify=verify,
        on_progress=on_progress,
    )


def age(folder: Path) -> None:
    """As if written a minute ago: what was written a moment ago is read again by the next run."""
    for path in folder.iterdir():
        about = path.stat()
        os.utime(path, (about.st_atime, about.st_mtime - 60))


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
    (folder / "page.html").write_text("<p>seen<p hidden>unseen</p><img src=a.png>")
    result = await run(base, collection, folder)
    named = "\n".join(result.problems)
    for name in ("broken.pdf", "latin.md", "rows.jsonl, line 2", "other.md"):
        assert name in named
    assert len(result.problems) == 4
    (left_out,) = result.left_out
    assert left_out.endswith("page.html: left out hidden elements (1), pictures (1)")
    assert result.report.documents == 14
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


async def test_unchanged_files_are_not_read(
    base: Base, collection: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(folder)
    first = await run(base, collection, folder)
    assert (first.files, first.read) == (12, 12)
    (folder / "doc03.md").write_text("# Part 0\nsomething new")
    opened: list[str] = []
    content = File.read

    def noted(self: File) -> bytes:
        opened.append(Path(self.url).name)
        return content(self)

    monkeypatch.setattr(File, "read", noted)
    second = await run(base, collection, folder)
    assert (second.files, second.read) == (12, 1)
    assert opened == ["doc03.md"]
    assert second.report.documents == 12
    assert second.report.chunks == 34


async def test_verify_finds_what_the_time_does_not_tell(
    base: Base, collection: str, folder: Path
) -> None:
    path = folder / "doc04.md"
    age(folder)
    await ingest(base, collection, folder)
    about = path.stat()
    path.write_text(path.read_text().replace("lamp", "stay").replace("map", "mop"))
    path.write_text(path.read_text()[: about.st_size].ljust(about.st_size, "."))
    os.utime(path, (about.st_atime, about.st_mtime))
    assert (await run(base, collection, folder)).read == 0
    result = await run(base, collection, folder, verify=True)
    assert result.read == 1
    assert result.report.embedded > 0


async def test_document_moves_between_files_without_being_lost(
    base: Base, collection: str, folder: Path
) -> None:
    """Whether the file it leaves or the one it comes to is read first."""
    for name in ("a0", "z0"):
        (folder / f"{name}.jsonl").write_text('{"id": "moves", "text": "it moves"}\n')
        (folder / f"{'z' if name == 'a0' else 'a'}1.jsonl").write_text('{"id": "x", "text": "y"}')
        await ingest(base, collection, folder)
        other = folder / f"{'z' if name == 'a0' else 'a'}1.jsonl"
        other.write_text((folder / f"{name}.jsonl").read_text())
        (folder / f"{name}.jsonl").write_text('{"id": "stays", "text": "it stays"}\n')
        result = await run(base, collection, folder)
        assert not list(result.problems)
        rows = {row[0] for row in await content(base, collection)}
        assert {"moves", "stays"} <= rows
        assert "x" not in rows
        other.unlink()
        (folder / f"{name}.jsonl").unlink()
        result = await run(base, collection, folder)
        assert not {"moves", "stays"} & {row[0] for row in await content(base, collection)}


async def test_one_id_in_two_files_is_the_first_files_whenever_it_comes(
    base: Base, collection: str, folder: Path
) -> None:
    (folder / "m.jsonl").write_text('{"id": "same", "text": "of m"}\n')
    await ingest(base, collection, folder)
    (folder / "z.jsonl").write_text('{"id": "same", "text": "of z"}\n')
    result = await run(base, collection, folder)
    assert [each for each in result.problems if "z.jsonl" in each and "same" in each]
    (folder / "z.jsonl").unlink()
    (folder / "b.jsonl").write_text('{"id": "same", "text": "of b"}\n')
    for _ in range(2):  # and again, as long as it is so
        result = await run(base, collection, folder)
        assert len(result.problems) == 1
        assert "m.jsonl" in "".join(result.problems)
        assert ("same", 0, "of b") in await content(base, collection)
    (folder / "b.jsonl").unlink()
    result = await run(base, collection, folder)
    assert not result.problems
    assert ("same", 0, "of m") in await content(base, collection)


async def test_source_with_a_name_may_lie_elsewhere(
    base: Base, collection: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await run(base, collection, folder, source="handbook")
    moved = tmp_path_factory.mktemp("moved") / "here"
    await asyncio.to_thread(folder.rename, moved)
    (moved / "doc11.md").unlink()
    result = await run(base, collection, moved, source="handbook")
    assert not list(result.problems)
    assert (result.report.embedded, result.report.removed, result.report.documents) == (0, 3, 11)


async def test_dry_run_writes_nothing_and_foresees_a_clash(
    base: Base, collection: str, folder: Path
) -> None:
    (folder / "other.md").write_text("---\nid: doc00\n---\nA second one of this id.")
    result = await run(base, collection, folder, dry_run=True)
    assert (result.report.documents, result.report.chunks, result.report.embedded) == (12, 36, 36)
    assert len(result.problems) == 1
    assert await base.registry.collections.get(collection) is None
    assert await base.registry.documents.states(collection) == {}


async def test_what_a_run_that_died_has_claimed_is_waited_for(
    base: Base, collection: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.retrieval.bulk.lease._LOOK_AGAIN_S", 0.01)
    source = str(folder)
    assert await base.registry.runs.hold(collection, "t", source, "dead", 1.0)
    assert (await ingest(base, collection, folder)).documents == 12
    assert await base.registry.runs.hold(collection, "t", source, "next", 1.0)


async def test_killed_runs_are_finished_by_the_same_command(
    uri: str, base: Base, collection: str, folder: Path, tmp_path: Path
) -> None:
    """SIGKILL at three random points; then the collection equals that of an undisturbed run."""
    many = tmp_path / "many"
    many.mkdir()
    for i in range(130):  # enough for Ray to have a part in it, and for three runs not to finish
        text = "\n".join(f"# Part {j}\n{' '.join(random.choices(WORDS, k=9))}" for j in range(20))
        (many / f"doc{i:02}.md").write_text(text)
    # Milvus Lite's file has one owner at a time: these runs get one of their own.
    target = uri if "://" in uri else str(tmp_path / "killed.db")
    whole, killed = f"{collection}_whole", f"{collection}_killed"
    await asyncio.to_thread(finished, target, whole, many)
    # After so many rows of each run's own, and then anywhere in the next batch.
    points = [(rows, random.uniform(0, 0.5)) for rows in random.sample((0, 1, 257), 3)]
    print("killed at (rows, seconds)", points)
    hit = [await asyncio.to_thread(killed_at, target, killed, many, *point) for point in points]
    assert any(hit)
    embedded = await asyncio.to_thread(finished, target, killed, many)
    after = Base(MilvusStore(target, "", timeout_s=20), Registry(str(tmp_path / "registry.db")))
    try:
        wanted = await content(after, whole)
        assert embedded < len(wanted)
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


def killed_at(uri: str, collection: str, folder: Path, rows: int, seconds: float) -> bool:
    """Start a run; kill it, with all its processes, so long after it has written so many rows.

    Returns:
        Whether it was still under way.
    """
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
        assert not process.returncode, log.read_text()
        return process.returncode is None
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(process.pid)
            for each in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGKILL)
        process.wait()


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


async def test_for_whom_files_are_is_part_of_what_they_are(
    base: Base, collection: str, folder: Path
) -> None:
    age(folder)
    await ingest(base, collection, folder)
    await run(base, collection, folder, allow=["hr"])
    index = await base.catalogue.index(collection)
    places = await base.store.between(index.name, "", "")
    stored = await base.store.stored(index, [each.id for each in places])
    assert {each.row.allow for each in stored} == {("hr",)}
    assert (await run(base, collection, folder, allow=["hr"])).read == 0


async def test_run_that_ends_in_the_middle_of_a_file_goes_on_there(
    base: Base, collection: str, tmp_path: Path
) -> None:
    rows = [json.dumps({"id": f"d{i}", "text": f"{WORDS[i % 16]} number {i}"}) for i in range(300)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))

    def over(step: bulk.Step) -> None:
        if step.embedded:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await run(base, collection, tmp_path, on_progress=over)
    first = len(await content(base, collection))
    assert 0 < first < 300
    result = await run(base, collection, tmp_path)
    assert result.report.embedded == 300 - first
    assert len(await content(base, collection)) == 300
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows[:99], *rows[100:]]))
    assert (await run(base, collection, tmp_path)).report.removed == 1


async def test_run_waits_while_milvus_is_away(
    base: Base, collection: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.retrieval.bulk.intake._PAUSES_S", (0.001, 0.001))
    away = iter([True, True, True])
    upsert = base.store.upsert

    async def refused(index: Index, rows: Sequence[Stored]) -> None:
        if next(away, False):
            raise Unavailable("the knowledge base is not reachable; try again shortly")
        await upsert(index, rows)

    monkeypatch.setattr(base.store, "upsert", refused)
    assert (await ingest(base, collection, folder)).embedded == 36
    assert len(await content(base, collection)) == 36
    assert next(away, None) is None


async def test_what_others_delete_or_replace_is_as_its_file_has_it_after_the_next_run(
    base: Base, collection: str, folder: Path
) -> None:
    age(folder)
    await ingest(base, collection, folder)
    before = await content(base, collection)
    retriever = Retriever(base.store, base.registry, Models(), 64, Rules())
    await retriever.delete(collection, "t", "doc02")
    await retriever.ingest(collection, "t", [Document("doc03", "", "of somebody else")])
    result = await run(base, collection, folder)
    assert (result.read, list(result.problems)) == (2, [])
    assert await content(base, collection) == before
    assert (await run(base, collection, folder)).read == 0
