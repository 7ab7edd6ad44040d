"""What a request on the frontier road costs in Python: calls of functions, and CPU time.

    python -m loadtest.calls
    python -m loadtest.calls --beside ../before      another checkout too, in turns
    python -m loadtest.calls --profile cumulative    and where they are, by a key of `pstats`

The gateway and the frontier's replica as they are deployed, in one process without Ray: what goes
from one to the other is pickled, as Ray does, and what SQLite does happens on the loop. The
provider (`loadtest.upstream`) is a process of its own behind the real SDK. It answers at once, in
one write, or slowly, so that each token goes the whole way alone. Calls are what `cProfile` counts,
those of C too: the same from run to run, but for a few. CPU time is the median of all requests.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import inspect
import json
import os
import pickle
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray._private.async_compat import get_new_event_loop
from rich.console import Console
from rich.table import Table

from loadtest import servers
from serve_app.frontier.deployment import FrontierServer
from serve_app.gateway.deployment import GatewayServer
from serve_app.settings import from_args

_URL = "http://127.0.0.1:8105"
# Tokens of an answer, milliseconds between them, and requests of a round.
_ANSWERS = {
    "9 tokens at once": (9, 0, 100),
    "270 tokens at once": (270, 0, 40),
    "270 tokens slowly": (270, 5, 8),
}


class _Inline(ThreadPoolExecutor):
    """Does what it is given at once, where one profile sees it."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args, **named))
        except Exception as error:
            done.set_exception(error)
        return done


class _Handle:
    """The face of a Serve handle on an object in this process."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def options(self, **_: Any) -> _Handle:
        return self

    def __getattr__(self, method: str) -> SimpleNamespace:
        def remote(*args: Any) -> Any:
            found = getattr(self._target, method)(*_sent(args))
            return found if inspect.isawaitable(found) else _Steps(found)

        return SimpleNamespace(remote=remote)


class _Steps:
    def __init__(self, steps: AsyncIterator[Any]) -> None:
        self._steps = steps

    def __aiter__(self) -> _Steps:
        return self

    async def __anext__(self) -> Any:
        return _sent(await anext(self._steps))

    def cancel(self) -> None:
        """It has come to its end."""


class _Unpinned:
    """A router whose policy has no pins."""

    async def pins(self, _: Any) -> tuple[()]:
        return ()

    async def may_bar(self, _: Any) -> bool:  # how it was asked up to 057bac3
        return False


def _sent(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, protocol=5))


async def gateway(ledger: str) -> Any:
    """The gateway's application, and behind it a frontier that asks the upstream."""
    upstream = {"provider": "openai", "model": "gpt-4.1", "base_url": f"{_URL}/v1", "api_key": "x"}
    args: dict[str, Any] = {"frontier": upstream, "ledger": {"database": ledger}}
    plain = GatewayServer.__bases__[0]  # as it is written: without what Serve makes of it
    router, nobody = _Handle(_Unpinned()), _Handle(None)
    if hasattr(plain, "reconfigure"):
        from serve_app.pins import Pins

        args["gateway"] = {"open": True}
        frontier = FrontierServer(lambda policy: Pins(), None)
        made = plain(router, nobody, nobody, _Handle(frontier), None)
        await frontier.reconfigure(args)
        await made.reconfigure(args)
    else:  # up to 057bac3
        settings: Any = from_args(args)
        frontier = FrontierServer(settings.frontier, None)
        made = plain(settings, router, nobody, nobody, _Handle(frontier))
    app = await made.__serve_build_asgi_app__()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()  # what a replica does beside its requests
    return app


async def ask(app: Any, tokens: int) -> None:
    """Have one answer streamed."""
    question = {"role": "user", "content": "Why is the sum of two odd numbers even?"}
    body = {"model": "trivium/frontier", "messages": [question], "max_tokens": 512, "stream": True}
    raw = json.dumps({**body, "stream_options": {"include_usage": True}}).encode()
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b""}
    scope |= {"headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1)}
    unread, sent = [{"type": "http.request", "body": raw}], bytearray()

    async def receive() -> Any:
        if not unread:
            await asyncio.Event().wait()  # the client stays
        return unread.pop()

    async def send(message: Any) -> None:
        sent.extend(message.get("body", b""))

    await app(scope, receive, send)
    assert f'"completion_tokens":{tokens},'.encode() in sent, sent


async def measure(tokens: int, requests: int, profile: str | None) -> dict[str, Any]:
    """Calls for a request, and milliseconds of CPU for each of some."""
    asyncio.get_running_loop().set_default_executor(_Inline())
    busy, calls = [], []
    with tempfile.TemporaryDirectory() as folder:
        app = await gateway(f"{folder}/ledger.db")
        for number in range(requests + 3):
            began = time.process_time()
            await ask(app, tokens)
            if number >= 3:  # the first ones warm up
                busy.append((time.process_time() - began) * 1000)
        for _ in range(5):
            with cProfile.Profile() as seen:
                await ask(app, tokens)
            calls.append(sum(each.callcount for each in seen.getstats()))
    if profile:
        pstats.Stats(seen, stream=sys.stderr).sort_stats(profile).print_stats(60)
    return {"calls": statistics.median(calls), "cpu_ms": busy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--beside", type=Path, action="append", default=[], help="other checkouts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", metavar="KEY", help="print profiles too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", type=int, nargs=2, help=argparse.SUPPRESS)  # see below
    chosen = parser.parse_args()
    if chosen.measure:
        with asyncio.Runner(loop_factory=get_new_event_loop) as loop:  # Ray's own
            tokens, requests = chosen.measure
            print(json.dumps(loop.run(measure(tokens, requests, chosen.profile))))
        return
    rows = []
    for answer, (tokens, pause_ms, requests) in _ANSWERS.items():
        upstream = [sys.executable, "-m", "loadtest.upstream", _URL.rpartition(":")[2]]
        upstream += ["--words", str(tokens), "--pause-ms", str(pause_ms)]
        command = [sys.executable, "-P", __file__, "--measure", str(tokens), str(requests)]
        command += ["--profile", chosen.profile] if chosen.profile else []
        found: dict[Path, list[dict[str, Any]]] = {each: [] for each in (Path(), *chosen.beside)}
        with servers.running(upstream, _URL, Path(".trivium/loadtest/upstream.log"), {}):
            for _ in range(chosen.rounds):
                for checkout, each in found.items():
                    variables = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
                    told = subprocess.check_output(command, env=variables, cwd=checkout)
                    each.append(json.loads(told))
        for checkout, each in found.items():
            calls = statistics.median(one["calls"] for one in each)
            cpu_ms = statistics.median(ms for one in each for ms in one["cpu_ms"])
            rows.append({"answer": answer, "of": f"{checkout}", "calls": calls, "cpu_ms": cpu_ms})
    if chosen.json:
        print(json.dumps(rows))
        return
    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for row in rows:
        table.add_row(*(f"{v:,.1f}" if isinstance(v, float) else f"{v}" for v in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
