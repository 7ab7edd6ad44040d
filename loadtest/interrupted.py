"""A bulk run is killed, with all its processes, at random points, until one comes to its end: does
the collection equal that of a run which nobody disturbed?

    python -m loadtest.interrupted --documents 50000 --kills 20

Documents of two chunks each, as `loadtest.bulk` makes them, go into a Milvus server of the
`milvus` package. Every chunk of both collections is read and compared; then `trivium collections
check` compares the one with the registry.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from loadtest import corpus, servers
from loadtest.bulk import configured
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.scanning import intervals
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import Settings, load


def command(source: Path, collection: str, config: Path) -> list[str]:
    command = [sys.executable, "-m", "serve_app.cli", "ingest", str(source), "--json"]
    return [*command, "--collection", collection, "--config", str(config)]


def whole(source: Path, collection: str, config: Path) -> tuple[dict[str, Any], float]:
    """Let a run come to its end; its report, and the seconds it took."""
    started = time.monotonic()
    done = subprocess.run(
        command(source, collection, config), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"the ingest failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout), time.monotonic() - started


def killed(source: Path, collection: str, config: Path, after_s: float) -> bool:
    """Start a run and kill it, and all that it has started; false where it ended before."""
    process = subprocess.Popen(
        command(source, collection, config), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
        return False
    family = [psutil.Process(process.pid)]
    family += family[0].children(recursive=True)
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    return True


async def content(settings: Settings, collection: str) -> tuple[int, str]:
    """How many chunks the index in force has, and a hash of all of them in order."""
    store, registry = MilvusStore.of(settings.retrieval), Registry.of(settings)
    found: list[bytes] = []
    try:
        index = await Catalogue(store, registry).index(collection)
        for first, end in intervals(await store.rows(index.name)):
            places = await store.between(index.name, first, end)
            for start in range(0, len(places), 1000):
                keys = [each.id for each in places[start : start + 1000]]
                for each in await store.stored(index, keys):
                    row = each.row
                    about = (row.document_id, row.ordinal, row.text, row.heading, row.source)
                    found.append(hashlib.sha256(json.dumps(about).encode()).digest())
    finally:
        await store.close()
        await registry.close()
    return len(found), hashlib.sha256(b"".join(sorted(found))).hexdigest()


def measure(options: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    source = folder / "files"
    corpus.write_files(source, options.documents)
    corpus.age(source)
    with servers.milvus(folder / "milvus") as server:
        config = configured(folder, f"http://127.0.0.1:{server.listen_port}")
        settings = load(config).resolved(Path.cwd())
        report, seconds = whole(source, "undisturbed", config)
        console.print(f"undisturbed: {seconds:.0f} s, {json.dumps(report)}")
        points: list[float] = []
        draw = random.Random(options.seed)
        while len(points) < options.kills:
            # Each is a little further than the one before: the runs together do not end either.
            point = draw.uniform(2.0, max(20.0, seconds / 3))
            if not killed(source, "killed", config, point):
                console.print(f"it ended before {point:.1f} s: {len(points)} kills")
                break
            points.append(round(point, 1))
            console.print(f"killed after {point:.1f} s")
        last, taken = whole(source, "killed", config)
        wanted = asyncio.run(content(settings, "undisturbed"))
        found = asyncio.run(content(settings, "killed"))
        check = subprocess.run(
            [
                *(sys.executable, "-m", "serve_app.cli", "collections", "check", "killed"),
                *("--json", "--config", str(config)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    return {
        "documents": report["documents"],
        "chunks": wanted[0],
        "undisturbed_s": round(seconds, 1),
        "killed_after_s": points,
        "last_run": {"embedded": last["embedded"], "s": round(taken, 1)},
        "equal": wanted == found,
        "chunks_of_killed": found[0],
        "check": json.loads(check.stdout or "[]"),
        "check_exit": check.returncode,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--documents", type=int, default=5_000, help="of two chunks each")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trivium-bench-") as folder:
        found = measure(options, Path(folder), Console(stderr=True))
    print(json.dumps(found))
    if not found["equal"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
