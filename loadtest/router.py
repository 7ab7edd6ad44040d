"""The router beside its peers, in one run on one machine: who is right, how fast, how many.

    python -m loadtest.router                     the demo's three roads
    python -m loadtest.router --data ../shared/data     CLINC150 (150 intents) too
    python -m loadtest.router --beside ../before        this router and another checkout's, in turns

Beside another checkout both decide on this one's questions, alone and through Serve.

Contestants: Trivium's router, the `semantic-router` package with the whole MiniLM, and
TF-IDF with logistic regression. Each runs alone, in a process of its own, first with 1 caller and
then with 32; Trivium also through Ray Serve, with two replicas. `semantic-router` is installed
beside the project, under .trivium/peers, the first time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from serve_app import models
from serve_app.cli import local
from serve_app.cli.bases import of_files
from serve_app.router.coverage import Base, Coverage
from serve_app.router.encoder import Encoder
from serve_app.router.heads import SHIPPED, Heads
from serve_app.router.rows import Row, read_rows
from serve_app.router.semantic import SemanticRouter
from serve_app.router.turns import Turns
from serve_app.settings import BUNDLED, Settings

PEER = "semantic-router==1.1.1"
PEERS = Path(".trivium/peers")
TRAIN = Path("configs/demo/routes.jsonl")
TEST = Path("tests/data/router_questions.jsonl")
CALLERS = (1, 32)
SECONDS = 6.0
WINDOWS = 5  # of so many seconds through Serve: a shared machine has good and bad ones
MOST_WORDS = 20
TURNS, TURN, TURN_IN = 150, 40, 3  # beside another checkout: turns, decisions in each, left out
ROUNDS = 4  # beside another checkout: of each through Serve

Choose = Callable[[str], str]


def splits(data: Path | None) -> dict[str, tuple[list[Row], list[Row]]]:
    """Training and test rows of each task; single questions only."""
    demo = [r for r in read_rows(TRAIN) if r.intent != "oos" and r.intent and not r.turns.earlier]
    found = {"demo roads": (demo, read_rows(TEST))}
    if data:
        folder = data / "intents"
        train, test = (read_rows(folder / f"clinc150_{part}.jsonl") for part in ("train", "val"))
        found["clinc150"] = (train, test)
    return found


def settings() -> Settings:
    return Settings().resolved(Path.cwd())


def handbook(own: Settings) -> Base:
    """The demo's knowledge base, as a replica has it."""
    encoder = Encoder(models.router_encoder(own), max_tokens=own.router.max_tokens, threads=1)
    return of_files(["configs/demo/handbook"], own.retrieval.chunk_tokens, encoder, Coverage.load())


def trivium(rows: list[Row], *, base: bool = True) -> Choose:
    """The shipped heads for the demo; heads trained on the rows for anything else.

    Args:
        base: Whether the tenant has the demo's handbook.
    """
    from serve_app.router.training import train

    own = settings()
    folder = models.router_encoder(own)
    encoder = Encoder(folder, max_tokens=own.router.max_tokens, threads=1)
    heads = Heads.load(SHIPPED)
    on_roads = {row.intent for row in rows} <= set(heads.intents)
    if not on_roads:
        heads = train(encoder, rows, heads, roads={}, card={})
    coverage = Coverage.load()
    bases = {("", "default"): handbook(own)} if base else {}
    router = SemanticRouter.of(own, encoder, heads, coverage, bases)

    def choose(query: str) -> str:
        (made,) = router.decide([Turns(query)], ["default"])
        return made.route.value if on_roads else max(made.fit, key=lambda name: made.fit[name])

    return choose


def semantic_router(rows: list[Row]) -> Choose:
    sys.path.insert(0, str(PEERS))
    from semantic_router import Route  # type: ignore[import-not-found]
    from semantic_router.encoders import HuggingFaceEncoder  # type: ignore[import-not-found]
    from semantic_router.routers import IndexedRouter  # type: ignore[import-not-found]

    names = sorted({str(row.intent) for row in rows})
    routes = [
        Route(name=name, utterances=[row.turns.last for row in rows if row.intent == name])
        for name in names
    ]
    encoder = HuggingFaceEncoder(name=models.embedding_models()[BUNDLED])
    router = IndexedRouter(encoder=encoder, routes=routes)

    def choose(query: str) -> str:
        return str(router(query).name)

    return choose


def tf_idf(rows: list[Row]) -> Choose:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000))
    model.fit([row.turns.last for row in rows], [str(row.intent) for row in rows])

    def choose(query: str) -> str:
        return str(model.predict([query])[0])

    return choose


CONTESTANTS = {"trivium": trivium, "semantic-router": semantic_router, "tf-idf": tf_idf}


def traffic(queries: Sequence[str]) -> list[str]:
    """Those of at most 20 words, for the timings; accuracy is measured on all.

    Shuffled: the files hold the questions of a kind side by side, and long ones with long ones,
    which no traffic does.
    """
    found = [query for query in queries if len(query.split()) <= MOST_WORDS]
    random.Random(0).shuffle(found)
    return found


def measure(choose: Choose, queries: Sequence[str], callers: int) -> dict[str, float]:
    """Decisions a second and their latency, with so many callers at once."""
    taken: list[list[float]] = [[] for _ in range(callers)]
    end = time.perf_counter() + SECONDS

    def call(caller: int) -> None:
        at = caller
        while (started := time.perf_counter()) < end:
            choose(queries[at % len(queries)])
            taken[caller].append(time.perf_counter() - started)
            at += callers

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return summary([each for mine in taken for each in mine], time.perf_counter() - started)


def summary(seconds: Sequence[float], elapsed: float) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {"p50_ms": float(p50), "p99_ms": float(p99), "per_second": len(seconds) / elapsed}


def contest(name: str, data: Path | None) -> dict[str, Any]:
    """All figures of one contestant; runs in a process of its own."""
    found = {}
    for task, (train, test) in splits(data).items():
        choose = CONTESTANTS[name](train)
        right = [choose(row.turns.last) == row.intent for row in test]
        queries = traffic([row.turns.last for row in test])
        found[task] = {
            "accuracy": sum(right) / len(right),
            "callers": {callers: measure(choose, queries, callers) for callers in CALLERS},
        }
    return found


def through_serve(data: Path | None, *, base: bool = True) -> dict[str, Any]:
    """The router's deployment, two replicas, called as the gateway calls it; the shipped heads.

    Args:
        base: Whether every tenant has the demo's handbook, or none has anything.
    """
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    from serve_app.domain import Message, RequestContext
    from serve_app.gateway.roads import RemoteRouter
    from serve_app.handles import Remote
    from serve_app.router.deployment import RouterServer
    from serve_app.router.placement import Lanes

    class Nobody:
        """Stands where the expert would: stage 2 is off."""

    class Retriever:
        """Stands where the retriever would: every tenant has the same base."""

        def __init__(self, sketch: bytes | None) -> None:
            self.sketch = sketch

        async def sketches(
            self, context: RequestContext, collection: str, tenants: Sequence[str]
        ) -> dict[str, tuple[int, bytes | None]]:
            return dict.fromkeys(tenants, (1 if self.sketch else 0, self.sketch))

        async def sketches_changed(
            self, context: RequestContext, since: float
        ) -> tuple[float, list[tuple[str, str]]]:
            return 0.0, []

    own = settings()
    sketch = handbook(own).sketch.to_bytes() if base else None
    with local.cluster(own, purpose="bench"):
        router = serve.deployment(
            RouterServer,
            name="Router",
            num_replicas=2,
            max_ongoing_requests=256,
            user_config={"router": own.router.model_dump(mode="json", exclude_defaults=True)},
            request_router_config=RequestRouterConfig(request_router_class=Lanes),
            ray_actor_options={"num_cpus": 1},
        ).bind(
            own.router,
            models.router_encoder(own),
            partial(models.ready_heads, {}),
            serve.deployment(Nobody).bind(),
            serve.deployment(Retriever).bind(sketch),
            None,
        )
        serve.run(router, name="bench", route_prefix=None)

        async def load(queries: Sequence[str], callers: int) -> tuple[list[float], float]:
            handle = serve.get_app_handle("bench")
            decider = RemoteRouter(
                Remote(handle, "router", 10), 2, own.router.max_batch_size, "", "default"
            )
            taken: list[float] = []
            end = time.perf_counter() + SECONDS

            async def call(caller: int) -> None:
                at = caller
                while (started := time.perf_counter()) < end:
                    context = RequestContext("bench", time.time() + 10)
                    await decider.decide(
                        context, [Message("user", queries[at % len(queries)])], None
                    )
                    taken.append(time.perf_counter() - started)
                    at += callers

            started = time.perf_counter()
            await asyncio.gather(*(call(caller) for caller in range(callers)))
            return taken, time.perf_counter() - started

        async def windows(queries: Sequence[str], callers: int) -> dict[str, Any]:
            parts = [await load(queries, callers) for _ in range(WINDOWS)]
            taken = [each for part, _ in parts for each in part]
            return {
                **summary(taken, sum(elapsed for _, elapsed in parts)),
                "p99_ms_of_windows": [summary(*part)["p99_ms"] for part in parts],
            }

        async def loads() -> dict[str, Any]:
            tasks = {
                task: traffic([row.turns.last for row in test])
                for task, (_, test) in splits(data).items()
            }
            await load(next(iter(tasks.values())), 4)  # warm
            return {
                task: {"callers": {callers: await windows(queries, callers) for callers in CALLERS}}
                for task, queries in tasks.items()
            }

        found = asyncio.run(loads())
        serve.shutdown()
        return found


def install_peer(console: Console) -> None:
    if (PEERS / "semantic_router").is_dir():
        return
    console.print(f"installing {PEER} under {PEERS}")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [str(uv), "pip", "install", "-q", "--python", sys.executable, "--target", str(PEERS), PEER],
        check=True,
    )


def run(name: str, data: Path | None) -> dict[str, Any]:
    arguments = ["--contestant", name, *(["--data", str(data)] if data else [])]
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.router", *arguments],
        capture_output=True,
        text=True,
        check=False,
        # The caller here is no replica: its handle needs a loop of its own.
        env={**os.environ, **local.RAY_ENVIRONMENT, "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"},
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


# Decides as often as each line that it reads says, and answers with the seconds of each decision.
_TURNS = """
import sys, time
from pathlib import Path
from loadtest import router
router.TEST = Path(sys.argv[1])
train, test = router.splits(None)["demo roads"]
choose = router.trivium(train{told})
queries = router.traffic([row.turns.last for row in test])
at = 0
print("ready", flush=True)
for line in sys.stdin:
    taken = []
    for _ in range(int(line)):
        started = time.perf_counter()
        choose(queries[at % len(queries)])
        taken.append(time.perf_counter() - started)
        at += 1
    print(*taken, flush=True)
"""


# Each checkout starts Ray as its own stack does.
_SERVE = """
import json, os, sys
from pathlib import Path
from serve_app.cli import local
os.environ.update(local.RAY_ENVIRONMENT, RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP="1")
from loadtest import router
router.TEST, router.CALLERS = Path(sys.argv[1]), (32,)
found = router.through_serve(None{told})
print(json.dumps(found["demo roads"]["callers"][32]))
"""


def _code(program: str, checkout: Path, *, base: bool) -> list[str]:
    """A program as another checkout runs it, on the questions of this one."""
    # Which knows no bases, perhaps.
    told = "" if base or checkout != Path() else ", base=False"
    return [sys.executable, "-c", program.replace("{told}", told), str(TEST.resolve())]


def serve_in_turns(
    checkouts: Sequence[Path], *, base: bool, console: Console
) -> dict[str, list[dict[str, float]]]:
    """Decisions a second and their latency through Serve with 32 callers, in turns."""
    found: dict[str, list[dict[str, float]]] = {str(each): [] for each in checkouts}
    with console.status("deciding through Serve in turns"):
        for _ in range(ROUNDS):
            for each in checkouts:
                done = subprocess.run(
                    _code(_SERVE, each, base=base),
                    cwd=each,
                    env={**os.environ, "PYTHONPATH": str(each.resolve())},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    sys.exit(f"the router in {each} failed:\n{done.stderr[-2000:]}")
                found[str(each)].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return found


def in_turns(
    checkouts: Sequence[Path], *, base: bool, console: Console
) -> dict[str, dict[str, float]]:
    """The latency of each checkout's router with one caller, in turns of a few decisions."""
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    taken: dict[Path, list[float]] = {each: [] for each in checkouts}
    with ExitStack() as stack:
        running = []
        for each in checkouts:
            process = subprocess.Popen(
                _code(_TURNS, each, base=base),
                cwd=each,
                env={**os.environ, **one_thread, "PYTHONPATH": str(each.resolve())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.enter_context(process)
            running.append((each, process))
        for each, process in running:
            if next(iter(process.stdout or ()), "").strip() != "ready":
                sys.exit(f"the router in {each} did not start")
        with console.status("deciding in turns"):
            for _ in range(TURNS):
                for each, process in running:
                    assert process.stdin
                    assert process.stdout
                    process.stdin.write(f"{TURN}\n")
                    process.stdin.flush()
                    # The first ones find the caches as the other has left them.
                    taken[each] += list(map(float, process.stdout.readline().split()))[TURN_IN:]
    return {str(each): summary(found, sum(found)) for each, found in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder of the public data sets")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.add_argument("--beside", type=Path, help="folder of another checkout")
    parser.add_argument(
        "--without-base", action="store_true", help="with --beside: the tenant has no base"
    )
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        if options.contestant == "trivium, Serve":
            print(json.dumps(through_serve(options.data)))
        else:
            print(json.dumps(contest(options.contestant, options.data)))
        return
    console = Console(stderr=True)
    if options.beside:
        both, base = [Path(), options.beside], not options.without_base
        found = in_turns(both, base=base, console=console)
        served = serve_in_turns(both, base=base, console=console)
        if options.json:
            print(json.dumps({"in process": found, "through Serve": served}))
            return
        for where, timing in found.items():
            print(f"{where}: p50 {timing['p50_ms']:.2f} ms, p99 {timing['p99_ms']:.2f} ms")
        for where, rounds in served.items():
            rates = ", ".join(f"{each['per_second']:.0f}" for each in rounds)
            tails = ", ".join(f"{each['p99_ms']:.0f}" for each in rounds)
            print(f"{where}: through Serve {rates} decisions a second, p99 {tails} ms")
        return
    install_peer(console)
    results = {}
    for name in (*CONTESTANTS, "trivium, Serve"):
        with console.status(f"running {name}"):
            results[name] = run(name, options.data)
    if options.json:
        print(json.dumps(results))
        return
    columns = [
        f"{c} caller{'s' if c > 1 else ''}: {m}" for c in CALLERS for m in ("p50", "p99", "/s")
    ]
    table = Table("task", "router", "accuracy", *columns)
    for task in next(iter(results.values())):
        for name, result in results.items():
            cells = [f"{result[task]['accuracy']:.3f}" if "accuracy" in result[task] else ""]
            for callers in CALLERS:
                timing = result[task]["callers"][str(callers)]
                cells += [f"{timing['p50_ms']:.2f}", f"{timing['p99_ms']:.2f}"]
                cells.append(f"{timing['per_second']:.0f}")
            table.add_row(task, name, *cells)
        table.add_section()
    Console(width=max(120, console.width)).print(table)
    for task in results["trivium"]:
        ours, theirs = (
            results[name][task]["callers"]["32"]["per_second"]
            for name in ("trivium", "semantic-router")
        )
        print(f"{task}: {ours / theirs:.1f} times semantic-router's decisions at 32 callers")
        tails = results["trivium, Serve"][task]["callers"]["32"]["p99_ms_of_windows"]
        each = ", ".join(f"{tail:.1f}" for tail in tails)
        print(f"{task}: through Serve, 32 callers, p99 of each {SECONDS:.0f} seconds: {each}")
    cores = psutil.cpu_count()
    print(f"{platform.processor() or platform.machine()}, {cores} cores; times in milliseconds")


if __name__ == "__main__":
    main()
