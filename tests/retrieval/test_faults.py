"""Bulk runs whose ground gives way: a disk that fills up, a Milvus that dies. As users see them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from milvus import MilvusServer

from serve_app import models
from serve_app.domain import Document, SearchQuery
from serve_app.errors import NotFound, Unavailable
from serve_app.retrieval.embedder import EmbeddingModels
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import BUNDLED
from tests.conftest import ROOT
from tests.retrieval.bases import Base, content
from tests.retrieval.conftest import address

pytestmark = pytest.mark.timeout(600)

WORDS = "tent boot rope stove lamp map knife coat pack sock glove hat pole bag filter rack".split()

PATHS = models.embedding_models()
CHUNKS = 2000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """2,000 chunks: enough to be in the middle of for some seconds."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for i in range(100):
        text = "\n".join(f"# Part {j}\n{' '.join(random.choices(WORDS, k=30))}" for j in range(20))
        (folder / f"doc{i:02}.md").write_text(text)
    return folder


def started(uri: str, folder: Path, *command: str) -> subprocess.Popen[str]:
    """`trivium ingest` under way."""
    # The variable that keeps gRPC from aborting what a process forks: tests have it, users do not.
    bare = {k: v for k, v in os.environ.items() if k != "GRPC_ENABLE_FORK_SUPPORT"}
    environment = {**bare, "TRIVIUM_STATE_DIR": str(folder.parent / "state")}
    return subprocess.Popen(
        [*command, sys.executable, "-m", "serve_app.cli", "ingest", str(folder), "--json"],
        env={**environment, "TRIVIUM_RETRIEVAL__MILVUS_URI": uri, "COLUMNS": "300"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = await asyncio.to_thread(process.communicate, timeout=240)
    return process.returncode, out, err


async def test_a_server_that_dies_stops_a_run_without_loss(
    milvus: MilvusServer, milvus_server: str, folder: Path
) -> None:
    store = MilvusStore(milvus_server, "", timeout_s=20)
    registry = Registry(str(folder.parent / "state" / "registry.db"))
    retriever = Retriever(store, registry, EmbeddingModels(BUNDLED, PATHS), 64, Rules())
    # What the run has not put in force yet is not found: this is.
    await retriever.ingest("kept", "default", [Document("tent", "", "A tent keeps rain out.")])
    run = started(milvus_server, folder)
    written = 0
    while not 0 < written < CHUNKS:
        assert run.poll() is None, run.communicate()
        try:
            written = len(await content(Base(store, registry), "default"))
        except NotFound:
            await asyncio.sleep(0.1)
    milvus.server_proc.kill()
    milvus.server_proc.wait()

    try:
        code, _, err = await finished(run)
        assert code == 1
        assert "error: the knowledge base is not reachable" in err
        assert "the same command finishes the run" in err
        assert "Traceback" not in err
        with pytest.raises(Unavailable):
            await retriever.search("default", "default", SearchQuery("tent", 3))
    finally:
        await asyncio.to_thread(milvus.start)  # other tests need it too
    await store.close()
    # Loading what it had takes a Milvus longer than a run waits.
    store = MilvusStore(address(milvus), "", timeout_s=120)
    retriever = Retriever(store, registry, EmbeddingModels(BUNDLED, PATHS), 64, Rules())
    until = time.monotonic() + 120
    while True:
        try:
            found = await retriever.search("kept", "default", SearchQuery("tent", 3))
            break
        except Unavailable:  # it is there, and does not listen yet
            assert time.monotonic() < until
            await asyncio.sleep(0.5)
    assert found, "the first search came before Milvus had read its log again"
    code, out, err = await finished(started(address(milvus), folder))
    assert code == 0, err
    assert "fork" not in err, "gRPC has a hand in the processes that Ray starts"
    report = json.loads(out)
    assert report["chunks"] == CHUNKS
    assert report["embedded"] <= CHUNKS - written
    assert len(await content(Base(store, registry), "default")) == CHUNKS
    await store.close()
    await registry.close()


async def test_a_full_disk_stops_a_run_without_loss(tmp_path: Path, folder: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    # A file system of its own, which only the shell and its children see.
    script = f"""
        mount -t tmpfs -o size=24m none {small} || exit 77
        head -c 20000000 /dev/zero > {small}/filler
        "$@"; echo "exit $?"
        rm {small}/filler
        "$@"; echo "exit $?"
        "$@"; echo "exit $?"
    """
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    code, out, err = await finished(started(str(small / "milvus.db"), folder, *namespace))
    if code == 77 or "unshare failed" in err:
        pytest.skip("this machine lets nobody mount a file system")
    first, second, third = out.split("exit ")[1:]
    assert [first[0], second[0], third[0]] == ["1", "0", "0"], err
    assert err.count("error: the disk of the knowledge base is full") == 1
    assert "fork" not in err, "gRPC has a hand in the processes that Ray starts"
    assert "the same command finishes the run" in err
    finishing, again = (json.loads(part.split("\n")[1]) for part in (first, second))
    assert finishing["chunks"] == again["chunks"] == CHUNKS
    assert 0 < finishing["embedded"] < CHUNKS
    assert again["embedded"] == 0
