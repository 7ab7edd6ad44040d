"""`trivium ingest` and `search` with what users give them by mistake, as they type it."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import ray

from tests.cli.conftest import Run, Serve
from tests.cli.knowledge_server import house

pytestmark = pytest.mark.usefixtures("clean_environment")

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path_factory.mktemp("state")))


def bomb() -> bytes:
    """A DOCX of 64 KiB that would be 64 MiB."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"\0" * (64 << 20))
    return made.getvalue()


def test_bad_files_are_named_with_a_remedy_and_the_rest_goes_in(run: Run, tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("# Good\nOur tents are green.")
    (tmp_path / "torn.pdf").write_bytes(b"%PDF-1.7\n1 0 obj\n<< /Type /Cat")
    (tmp_path / "latin.md").write_bytes("Grüße".encode("latin-1"))
    (tmp_path / "bomb.docx").write_bytes(bomb())
    (tmp_path / "empty.txt").touch()
    (tmp_path / "twin.md").write_text("---\nid: good\n---\nAnother one of this id.")
    with (tmp_path / "huge.jsonl").open("wb") as huge:
        huge.truncate(200 << 20)
    done = run("ingest", str(tmp_path), "--json")
    assert done.code == 1, done.err
    report = json.loads(done.out)
    assert (report["documents"], report["chunks"]) == (1, 1)
    named = {Path(line.partition(": ")[0]).name: line for line in report["failed"]}
    assert "split it into smaller files" in named.pop("huge.jsonl")
    assert "save it again" in named.pop("torn.pdf")
    assert "not UTF-8 text; convert it" in named.pop("latin.md")
    assert "inflates beyond all bounds" in named.pop("bomb.docx")
    assert "holds no text" in named.pop("empty.txt")
    assert "the id 'good' is taken already" in named.pop("twin.md")
    assert named == {}
    assert "Traceback" not in done.err
    assert not ray.is_initialized()  # not for the huge file alone


def test_folder_without_documents_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    (tmp_path / "image.png").touch()
    done = run("ingest", str(tmp_path))
    assert done.code == 2
    assert f"{tmp_path}: no .md" in done.err


@pytest.mark.parametrize("command", [["ingest", "{}"], ["reindex"], ["advise", "knowledge"]])
def test_milvus_that_is_not_there_is_said_in_a_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("TRIVIUM_RETRIEVAL__MILVUS_URI", NOWHERE)
    (tmp_path / "good.md").write_text("Our tents are green.")
    done = run(*(each.format(tmp_path) for each in command))
    assert done.code == 1
    assert "error: the knowledge base is not reachable" in done.err
    assert "Traceback" not in done.err


def test_search_without_milvus_is_said_in_a_sentence(
    run: Run, serve: Serve, tmp_path: Path
) -> None:
    url = serve(house(milvus_uri=NOWHERE, timeout_s=2, registry=str(tmp_path / "registry.db")))
    done = run("search", "tents", "--url", url)
    assert done.code == 1
    assert "the knowledge base is not reachable" in done.err


def test_document_that_the_server_refuses_is_named_and_the_others_are_sent(
    run: Run, serve: Serve, tmp_path: Path
) -> None:
    gateway = house(milvus_uri=str(tmp_path / "milvus.db"))
    url = serve(gateway)
    files = tmp_path / "files"
    files.mkdir()
    for number in range(5):
        (files / f"doc{number}.md").write_text(f"Document {number}.")
    (files / "doc2.md").write_text("word " * 500_000)  # more than a request may hold
    done = run("ingest", str(files), "--url", url, "--json")
    report = json.loads(done.out)
    assert (done.code, report["documents"]) == (1, 4)
    (problem,) = report["failed"]
    assert problem.startswith("doc2: ")
