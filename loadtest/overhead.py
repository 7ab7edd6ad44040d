"""What the gateway adds to vLLM: time to first token, and throughput.

    python -m loadtest.overhead
    python -m loadtest.overhead --beside ../before      another checkout too, in the same run

Both servers run side by side on this machine with the same weights, engine arguments and prompts;
measurements alternate between them, so that a drift of the machine meets both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from loadtest import servers
from loadtest.streams import Target, Timing, concurrently, percentile
from serve_app.orchestration.prompts import SHIPPED
from serve_app.settings import load

_TOPICS = "tents stoves boots packs maps rain snow wind fire rope skis huts tea wool wood".split()


def prompts(count: int, salt: str) -> list[str]:
    """Short requests for the expert, all different, so that no prefix cache answers them."""
    return [
        f"Write a short note about {_TOPICS[i % len(_TOPICS)]} ({salt} {i})." for i in range(count)
    ]


def measure(targets: list[Target], streams: int, rounds: int, tokens: int) -> list[dict[str, Any]]:
    """Alternate between the targets; one row for each."""
    timings: dict[str, list[Timing]] = {target.name: [] for target in targets}
    seconds: dict[str, float] = dict.fromkeys(timings, 0.0)
    for number in range(rounds):
        for target in targets:
            asked = prompts(max(4, 2 * streams), f"{streams} streams, round {number},")
            found, took = asyncio.run(concurrently(target, asked, streams, tokens))
            timings[target.name] += found
            seconds[target.name] += took
    rows: list[dict[str, Any]] = []
    for target in targets:
        found = timings[target.name]
        ttft = [1000 * t.ttft for t in found]
        rows.append(
            {
                "server": target.name,
                "streams": streams,
                "requests": len(found),
                "ttft_ms": {p: percentile(ttft, p / 100) for p in (50, 95, 99)},
                "tpot_ms": 1000 * statistics.median(t.tpot for t in found),
                "e2e_ms": 1000 * statistics.median(t.e2e for t in found),
                "tokens_per_second": sum(t.tokens for t in found) / seconds[target.name],
            }
        )
    alone = rows[0]
    for row in rows:
        row["added_ttft_ms"] = row["ttft_ms"][50] - alone["ttft_ms"][50]
        row["throughput_ratio"] = row["tokens_per_second"] / alone["tokens_per_second"]
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows, for people."""
    heads = ("server", "streams", "requests", "TTFT p50", "p95", "p99 ms", "added ms", "TPOT ms")
    shown = Table(*heads, "E2E p50 ms", "tokens/s", "of vLLM alone", title="Gateway overhead")
    for row in rows:
        ttft = row["ttft_ms"]
        shown.add_row(
            row["server"],
            str(row["streams"]),
            str(row["requests"]),
            *(f"{ttft[p]:.0f}" for p in (50, 95, 99)),
            f"{row['added_ttft_ms']:+.0f}",
            f"{row['tpot_ms']:.1f}",
            f"{row['e2e_ms']:.0f}",
            f"{row['tokens_per_second']:.1f}",
            f"{row['throughput_ratio']:.0%}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=4, help="alternations between the servers")
    parser.add_argument("--tokens", type=int, default=48, help="bound on each answer")
    parser.add_argument("--beside", type=Path, help="folder of another checkout")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    console = Console(stderr=True)
    settings = load(Path("configs/local.yaml")).resolved(Path.cwd())
    logs = settings.state_dir / "bench"
    instructions = SHIPPED["expert"].render(sources=False, tools=False)
    with ExitStack() as stack:
        with console.status("starting both servers (two minutes)"):
            gateway = stack.enter_context(servers.trivium(8010, logs / "trivium.log"))
            alone = stack.enter_context(servers.vllm(settings, 8011, logs / "vllm.log"))
        targets = [
            Target("vLLM alone", alone, "alone", instructions),
            Target("trivium/expert", gateway, "trivium/expert"),
            Target("trivium/auto", gateway, "trivium/auto"),
        ]
        if args.beside:
            with console.status(f"starting the stack in {args.beside}"):
                log = (logs / "beside.log").resolve()
                beside = stack.enter_context(servers.trivium(8012, log, checkout=args.beside))
            targets += [
                Target(f"{road} in {args.beside}", beside, road)
                for road in ("trivium/expert", "trivium/auto")
            ]
        for target in targets:
            asyncio.run(concurrently(target, prompts(4, "warm up"), 2, 8))
        rows = []
        for streams in args.streams:
            with console.status(f"measuring {streams} streams"):
                rows += measure(targets, streams, args.rounds, args.tokens)
    machine = f"{psutil.cpu_count()} cores, {platform.processor() or platform.machine()}"
    if args.json:
        json.dump({"machine": machine, "rows": rows}, sys.stdout, indent=2)
        print()
    else:
        console.print(machine)
        Console(width=140).print(table(rows))


if __name__ == "__main__":
    main()
