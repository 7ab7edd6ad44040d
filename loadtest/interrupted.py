"""Bulk runs and reindexes are killed, with all their processes, at random points, until one comes
to its end: does the collection equal one that nobody disturbed?

    python -m loadtest.interrupted --documents 50000 --kills 20

Documents of two chunks each, as `loadtest.bulk` makes them, go into a Milvus server of the `milvus`
package. First a run of `trivium ingest` is killed again and again: every chunk is compared with
those of a run that was left alone. Then `trivium reindex` is killed likewise, while documents are
put, replaced and deleted one by one: every document is compared with what was said to be done.
`trivium collections check` compares each time with the registry. Milvus shows rows for a while that
it was told to remove: how long that is, is measured; that a search finds nothing that was deleted
holds at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from loadtest import corpus, servers
from loadtest.bulk import configured
from serve_app.domain import Document, SearchQuery
from serve_app.retrieval.bulk.models import LazyModels
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.scanning import intervals
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import Settings, load

_LOOK_S = 0.02  # between two looks at how far it is
_MOMENT_S = 2.0
_ASKED = 40  # words
_OWN = 500  # documents that are put one by one before a reindex
_PAUSE_S = 0.05  # between two changes
_PATIENCE_S = 600.0  # for Milvus to show no row any more that it has removed

Words = dict[str, list[str]]  # of each document, by its id


def trivium(*arguments: str, config: Path) -> list[str]:
    return [sys.executable, "-m", "serve_app.cli", *arguments, "--json", "--config", str(config)]


def whole(command: list[str]) -> tuple[dict[str, Any], float]:
    """Let a command come to its end; its report, and the seconds it took."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[2:6])} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout), time.monotonic() - started


def killed_often(
    command: list[str],
    done: Callable[[], int],
    points: Sequence[int],
    draw: random.Random,
    console: Console,
) -> list[int]:
    """Start a command again and again, and kill it with all that it has started, each time when so
    much is done and a moment later. How much was done then, of those that did not end before.

    Args:
        done: How far the work has come, whoever did it.
        points: Ascending.
    """
    reached: list[int] = []
    for point in points:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and done() < point:
            time.sleep(_LOOK_S)
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.0, _MOMENT_S))
            console.print(f"it ended before {point} were done: {len(reached)} kills")
            break
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        reached.append(done())
        console.print(f"killed when {reached[-1]} were done")
    return reached


def counted(registry: Path, statement: str) -> Callable[[], int]:
    """What a statement counts in a registry; 0 as long as there is none."""

    def count() -> int:
        try:
            with closing(sqlite3.connect(f"file:{registry}?mode=ro", uri=True, timeout=30)) as it:
                return int(it.execute(statement).fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    return count


async def content(settings: Settings, collection: str) -> Words:
    """What every document of the index in force says, headings apart."""
    store, registry = MilvusStore.of(settings.retrieval), Registry.of(settings)
    found: dict[str, list[tuple[int, str]]] = {}
    try:
        index = await Catalogue(store, registry).index(collection)
        for first, end in intervals(await store.rows(index.name)):
            places = await store.between(index.name, first, end)
            for start in range(0, len(places), 1000):
                keys = [each.id for each in places[start : start + 1000]]
                for each in await store.stored(index, keys):
                    row = each.row
                    found.setdefault(row.document_id, []).append((row.ordinal, row.text))
    finally:
        await store.close()
        await registry.close()
    return {name: _words(text for _, text in sorted(rows)) for name, rows in found.items()}


def _words(texts: Iterator[str]) -> list[str]:
    lines = (line for text in texts for line in text.splitlines() if not line.startswith("#"))
    return [word for line in lines for word in line.split()]


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Retriever]:
    """A retriever of its own."""
    retrieval = settings.retrieval
    store, registry = MilvusStore.of(retrieval), Registry.of(settings)
    embedders = LazyModels({}, retrieval.embedding_model)
    try:
        yield Retriever(store, registry, embedders, retrieval.chunk_tokens, Rules())
    finally:
        await store.close()
        await registry.close()


@dataclass
class Changes:
    """Documents are put, replaced and deleted one by one, and what was said to be done is kept.

    Attributes:
        wanted: What the collection is to hold.
        gone: What it held and is not to hold.
    """

    settings: Settings
    collection: str
    wanted: Words
    draw: random.Random
    gone: Words = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=lambda: {"put": 0, "deleted": 0})

    async def some(self, over: threading.Event, most: int | None = None) -> None:
        async with opened(self.settings) as retriever:
            while not over.is_set() and (most is None or sum(self.done.values()) < most):
                await self._change(retriever, only_put=most is not None)
                await asyncio.sleep(0 if most else _PAUSE_S)

    async def found(self) -> list[str]:
        """Documents that were deleted and that a search for their words finds."""
        found: list[str] = []
        async with opened(self.settings) as retriever:
            await retriever.mend()  # as a running stack does
            for name, words in self.gone.items():
                query = SearchQuery(" ".join(words[:_ASKED]), 10, "dense")
                hits = await retriever.search(self.collection, "default", query)
                found += [name] if name in {hit.document_id for hit in hits} else []
        return found

    def equal_after(self, most_s: float) -> float | None:
        """Seconds until the rows of Milvus are what was said to be done; none if they never are."""
        started = time.monotonic()
        while (spent := time.monotonic() - started) < most_s:
            if asyncio.run(content(self.settings, self.collection)) == self.wanted:
                return spent
            time.sleep(_MOMENT_S)
        return None

    async def _change(self, retriever: Retriever, *, only_put: bool) -> None:
        of = (self.collection, "default")
        if not only_put and self.draw.random() < 0.4:
            name = self.draw.choice(list(self.wanted))
            await retriever.delete(*of, name)
            self.gone[name] = self.wanted.pop(name)
            self.done["deleted"] += 1
            return
        number = self.draw.randrange(2 * _OWN)
        name, text = f"own{number}", corpus.text(number, self.done["put"] + 2)
        await retriever.ingest(*of, [Document(name, "", text)])
        self.wanted[name] = _words(iter([text]))
        self.gone.pop(name, None)
        self.done["put"] += 1

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """All the while, in a thread."""
        over, failures = threading.Event(), []

        def work() -> None:
            try:
                asyncio.run(self.some(over))
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if failures:
            raise failures[0]


def check(config: Path, collection: str) -> dict[str, Any]:
    """What `check --repair` has found, and the exit status of a check after it.

    Of an index that was begun and never used nobody but a check knows.
    """
    command = trivium("collections", "check", collection, config=config)
    mended = subprocess.run([*command, "--repair"], capture_output=True, text=True, check=False)
    (said,) = json.loads(mended.stdout or "[{}]")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"found": said.get("counts"), "lost": said.get("lost"), "exit": done.returncode}


def points(draw: random.Random, kills: int, most: int) -> list[int]:
    """Random, ascending, within all the work."""
    return sorted(draw.randrange(most) for _ in range(kills))


def ingests(
    options: argparse.Namespace, source: Path, config: Path, console: Console
) -> dict[str, Any]:
    """A bulk run that is killed, beside one that is not."""
    settings = load(config).resolved(Path.cwd())

    def command(collection: str) -> list[str]:
        return trivium("ingest", str(source), "--collection", collection, config=config)

    report, seconds = whole(command("undisturbed"))
    console.print(f"undisturbed: {seconds:.0f} s, {json.dumps(report)}")
    draw = random.Random(options.seed)
    inside = "SELECT count(*) FROM documents WHERE collection = 'killed' AND state = 'in'"
    done = counted(Path(settings.retrieval.registry_address), inside)
    chosen = points(draw, options.kills, options.documents)
    reached = killed_often(command("killed"), done, chosen, draw, console)
    last, taken = whole(command("killed"))
    wanted = asyncio.run(content(settings, "undisturbed"))
    found = asyncio.run(content(settings, "killed"))
    return {
        "documents": len(wanted),
        "chunks": report["chunks"],
        "undisturbed_s": round(seconds, 1),
        "killed_at": reached,
        "last_run": {"embedded": last["embedded"], "s": round(taken, 1)},
        "equal": wanted == found,
        "check": check(config, "killed"),
    }


def reindexes(options: argparse.Namespace, config: Path, console: Console) -> dict[str, Any]:
    """A reindex that is killed while documents change."""
    settings = load(config).resolved(Path.cwd())

    def command(collection: str) -> list[str]:
        chosen = ("--collection", collection, "--chunk-tokens", "96")
        return trivium("reindex", *chosen, config=config)

    _, seconds = whole(command("undisturbed"))
    console.print(f"undisturbed reindex: {seconds:.0f} s")
    draw = random.Random(options.seed + 1)
    changes = Changes(settings, "killed", asyncio.run(content(settings, "killed")), draw)
    asyncio.run(changes.some(threading.Event(), _OWN))
    copied = (
        "SELECT count(*) FROM copies WHERE index_name = "
        "(SELECT filling FROM collections WHERE name = 'killed')"
    )
    done = counted(Path(settings.retrieval.registry_address), copied)
    chosen = points(draw, options.kills, options.documents)
    with changes.going_on():
        reached = killed_often(command("killed"), done, chosen, draw, console)
        _, taken = whole(command("killed"))
    searched = asyncio.run(changes.found())
    at_once = asyncio.run(content(settings, "killed"))
    equal_after = changes.equal_after(_PATIENCE_S)
    found, wanted = asyncio.run(content(settings, "killed")), changes.wanted
    return {
        "undisturbed_s": round(seconds, 1),
        "killed_at": reached,
        "last_run_s": round(taken, 1),
        "changes": changes.done,
        "documents": len(found),
        "deleted_and_found": searched[:10],
        "rows_deleted_and_read_at_once": len(at_once.keys() & changes.gone.keys()),
        "rows_equal_after_s": equal_after and round(equal_after, 1),
        "equal": equal_after is not None and not searched,
        "missing": sorted(wanted.keys() - found.keys())[:10],
        "came_back": sorted(found.keys() - wanted.keys())[:10],
        "otherwise": sorted(n for n in found.keys() & wanted.keys() if found[n] != wanted[n])[:10],
        "check": check(config, "killed"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--documents", type=int, default=5_000, help="of two chunks each")
    parser.add_argument("--kills", type=int, default=20, help="of each of the two")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="trivium-bench-") as passing:
        folder = Path(passing)
        source = folder / "files"
        corpus.write_files(source, options.documents)
        corpus.age(source)
        with servers.milvus(folder / "milvus") as server:
            config = configured(folder, f"http://127.0.0.1:{server.listen_port}")
            found = {"ingest": ingests(options, source, config, console)}
            console.print(json.dumps(found["ingest"]))
            found["reindex"] = reindexes(options, config, console)
    print(json.dumps(found))
    if not all(each["equal"] and each["check"]["exit"] == 0 for each in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
