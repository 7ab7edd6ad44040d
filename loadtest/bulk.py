"""A knowledge base of a million chunks: bulk runs, searches and single writes on it.

    python -m loadtest.bulk --documents 500000 --kind files

Documents of two chunks each are written as one Markdown file each, or as JSONL of 50,000 rows a
file, and ingested by `trivium ingest` into a Milvus server of the `milvus` package: all of them,
none changed, none changed with `--verify`, one in a hundred changed. Then the retriever searches
beside bare pymilvus, and documents are put, got and deleted one by one while eight clients search.

Vectors are averages of random ones (64 numbers): the encoder is not what is measured here, see
`loadtest.ingest` for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from loadtest import corpus, servers
from serve_app.domain import Document, SearchQuery
from serve_app.retrieval.bulk.models import LazyModels
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import Settings, load

_EVERY_S = 0.2
_CLIENTS = 8


class Watch:
    """The memory of a process, and of all that it has started, while it runs."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.driver = 0
        self.all = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_EVERY_S):
            with suppress(psutil.NoSuchProcess):
                own = _resident(self._process)
                children = self._process.children(recursive=True)
                self.driver = max(self.driver, own)
                self.all = max(self.all, own + sum(map(_resident, children)))


def ingest(source: Path, config: Path, *options: str) -> dict[str, Any]:
    """The command's own report, how long it took in all, and its peak of memory."""
    command = [sys.executable, "-m", "serve_app.cli", "ingest", str(source), "--json", *options]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*command, "--config", str(config)], stdout=said, stderr=errors, text=True
        )
        with Watch(psutil.Process(process.pid)) as watch:
            process.wait()
        said.seek(0)
        errors.seek(0)
        if process.returncode:
            sys.exit(f"the ingest failed:\n{errors.read()[-3000:]}")
        report = json.loads(said.read())
    taken = time.perf_counter() - started
    wanted = ("files", "read", "documents", "chunks", "embedded", "removed")
    return {
        **{name: report[name] for name in wanted},
        "all_s": round(taken, 1),
        "driver_mb": watch.driver >> 20,
        "everything_mb": watch.all >> 20,
    }


def runs(folder: Path, config: Path, count: int, kind: str, console: Console) -> dict[str, Any]:
    """Bulk runs over the same documents."""
    source = folder / kind
    with console.status(f"writing {count:,} documents"):
        (corpus.write_files if kind == "files" else corpus.write_jsonl)(source, count)
        corpus.age(source)
    found: dict[str, Any] = {}

    def run(name: str, *options: str) -> None:
        with console.status(name):
            found[name] = ingest(source, config, *options)
        console.print(name, json.dumps(found[name]))

    run("all")
    run("none changed")
    run("none changed, --verify", "--verify")
    if kind == "files":
        corpus.change_files(source, count, 0.01)
    else:
        chosen = random.Random(1).sample(range(count), round(count * 0.01))
        corpus.write_jsonl(source, count, frozenset(chosen))
    run("1 % changed, dry run", "--dry-run")
    run("1 % changed")
    return found


async def searches(settings: Settings, count: int, rounds: int, console: Console) -> dict[str, Any]:
    """p50 and p95 of a search, beside the same call on pymilvus, one at a time, in turns."""
    from pymilvus import AsyncMilvusClient

    retrieval = settings.retrieval
    embedders = LazyModels({}, retrieval.embedding_model)
    store, registry = MilvusStore.of(retrieval), Registry.of(settings)
    retriever = Retriever(store, registry, embedders, retrieval.chunk_tokens, Rules())
    client = AsyncMilvusClient(uri=retrieval.milvus_uri)
    embed = embedders.model(embedders.default)

    async def ours(query: str) -> object:
        return await retriever.search("default", "default", SearchQuery(query, 20, "dense"))

    async def bare(query: str) -> object:
        return await client.search(
            "default",
            data=[(await asyncio.to_thread(embed, [query]))[0]],
            anns_field="dense",
            search_params={"metric_type": "IP"},
            filter='tenant == "default"',
            limit=20,
            output_fields=["id", "document_id", "title", "heading", "text", "as_of"],
        )

    try:
        taken = await _in_turns({"bare pymilvus": bare, "retriever": ours}, count, rounds)
        console.print("search", json.dumps(taken))
        single = await _single(retriever, ours, count, rounds)
        console.print("beside 8 clients", json.dumps(single))
    finally:
        await client.close()
        await store.close()
        await registry.close()
    return {"search": taken, "beside 8 clients": single}


async def _in_turns(
    contestants: dict[str, Callable[[str], Awaitable[object]]], count: int, rounds: int
) -> dict[str, Any]:
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 20):
        query = _query(turn, count)
        for name, search in contestants.items():
            started = time.perf_counter()
            await search(query)
            taken[name].append((time.perf_counter() - started) * 1000)
    return {name: _percentiles(times[20:]) for name, times in taken.items()}  # the first warm up


async def _single(
    retriever: Retriever, search: Callable[[str], Awaitable[object]], count: int, rounds: int
) -> dict[str, Any]:
    """Documents one by one, while clients search without a pause."""
    over = asyncio.Event()
    searched: list[float] = []

    async def client(number: int) -> None:
        turn = number
        while not over.is_set():
            turn += _CLIENTS
            started = time.perf_counter()
            await search(_query(turn, count))
            searched.append((time.perf_counter() - started) * 1000)

    clients = [asyncio.create_task(client(number)) for number in range(_CLIENTS)]
    taken: dict[str, list[float]] = {"put": [], "get": [], "put again": [], "delete": []}
    of = ("default", "default")

    async def timed(name: str, call: Awaitable[object]) -> None:
        started = time.perf_counter()
        await call
        taken[name].append((time.perf_counter() - started) * 1000)

    for turn in range(rounds):
        name = f"single{turn}"
        await timed("put", retriever.ingest(*of, [Document(name, "", corpus.text(turn, 2))]))
        await timed("get", retriever.document(*of, name))
        await timed("put again", retriever.ingest(*of, [Document(name, "", corpus.text(turn, 3))]))
        await timed("delete", retriever.delete(*of, name))
    over.set()
    await asyncio.gather(*clients)
    return {name: _percentiles(times) for name, times in {**taken, "search": searched}.items()}


def _query(turn: int, count: int) -> str:
    draw = random.Random(turn)
    words = corpus.text(draw.randrange(count)).split()
    return " ".join(draw.sample(words, 8))


def _percentiles(times: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(times, [50, 95])
    return {"p50_ms": round(float(p50), 1), "p95_ms": round(float(p95), 1), "n": len(times)}


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def check(config: Path) -> dict[str, Any]:
    """Whether the index holds what the registry says."""
    command = [sys.executable, "-m", "serve_app.cli", "collections", "check", "--json"]
    done = subprocess.run(
        [*command, "--config", str(config)], capture_output=True, text=True, check=False
    )
    return {"exit": done.returncode, "said": json.loads(done.stdout or "[]")}


def configured(folder: Path, uri: str) -> Path:
    """A settings file for a knowledge base of its own."""
    retrieval = {
        "milvus_uri": uri,
        "registry": str(folder / "registry.db"),
        "embedding_model": str(corpus.static_model(folder)),
        "timeout_s": 120,
    }
    config = folder / "config.yaml"
    state = {"state_dir": str(folder / "state"), "retrieval": retrieval}
    config.write_text(json.dumps(state), encoding="utf-8")
    return config


def measure(options: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    with servers.milvus(folder / "milvus") as server:
        config = configured(folder, f"http://127.0.0.1:{server.listen_port}")
        found = {"runs": runs(folder, config, options.documents, options.kind, console)}
        settings = load(config).resolved(Path.cwd())
        with console.status("searching"):
            found |= asyncio.run(searches(settings, options.documents, options.rounds, console))
        with console.status("checking every chunk"):
            found["check"] = check(config)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=10_000, help="of two chunks each")
    parser.add_argument("--kind", choices=["files", "jsonl"], default="files")
    parser.add_argument("--rounds", type=int, default=300, help="searches, and single writes")
    parser.add_argument("--folder", type=Path, help="keep everything there; default: a passing one")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="trivium-bench-") as passing:
        folder = options.folder or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(options, folder, console)
    if options.json:
        print(json.dumps(found))
        return
    _show(found)


def _show(found: dict[str, Any]) -> None:
    columns = ("files", "read", "embedded", "removed", "all_s", "driver_mb", "everything_mb")
    table = Table("run", *(name.replace("_", " ") for name in columns))
    for name, run in found["runs"].items():
        table.add_row(name, *(str(run[column]) for column in columns))
    times = Table("call", "p50 ms", "p95 ms", "n")
    for group in ("search", "beside 8 clients"):
        for name, each in found[group].items():
            times.add_row(f"{group}: {name}", *(str(each[n]) for n in ("p50_ms", "p95_ms", "n")))
    Console().print(table, times)
    p95 = {name: each["p95_ms"] for name, each in found["search"].items()}
    print(f"p95: {p95['retriever'] / p95['bare pymilvus']:.2f} times the bare call's")
    print(f"check: {json.dumps(found['check'])[:500]}")


if __name__ == "__main__":
    main()
