"""Bulk runs whose ground gives way: a disk that fills up. As a user sees it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(600)

WORDS = "tent boot rope stove lamp map knife coat pack sock glove hat pole bag filter rack".split()

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
    environment = {**os.environ, "TRIVIUM_STATE_DIR": str(folder.parent / "state")}
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


async def test_a_full_disk_stops_a_run_without_loss(tmp_path: Path, folder: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    # A file system of its own, which only the shell and its children see.
    script = f"""
        mount -t tmpfs -o size=24m none {small} || exit 77
        head -c 23000000 /dev/zero > {small}/filler
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
    assert "the same command finishes the run" in err
    finishing, again = (json.loads(part.split("\n")[1]) for part in (first, second))
    assert finishing["chunks"] == again["chunks"] == CHUNKS
    assert 0 < finishing["embedded"] < CHUNKS
    assert again["embedded"] == 0
