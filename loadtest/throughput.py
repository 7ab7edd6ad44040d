"""Tokens per second of a running stack, at one stream and at many.

    python -m loadtest.throughput --streams 1 32 128 --tokens 256

Against any OpenAI-compatible server: `--url` and `--model`. Each prompt begins unlike all others,
so that none is read from a prefix cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.streams import Target, concurrently, percentile

_SENTENCE = "The tent stood in rain and wind while the boots dried by a small stove. "  # 16 tokens


def prompts(count: int, tokens: int, salt: str) -> list[str]:
    """About so many tokens each, and unlike each other from the first word on."""
    body = _SENTENCE * max(1, tokens // 16)
    return [f"{salt} {number}: {body}Go on with the story." for number in range(count)]


def measure(target: Target, streams: int, rounds: int, prompt: int, tokens: int) -> dict[str, Any]:
    asked = prompts(rounds * streams, prompt, f"{target.model}, {streams} streams, story")
    timings, took = asyncio.run(concurrently(target, asked, streams, tokens))
    made = sum(each.tokens for each in timings)
    return {
        "model": target.model,
        "streams": streams,
        "answers": len(timings),
        "tokens_per_answer": made / len(timings),
        "tokens_per_second": made / took,
        "ttft_p50_ms": 1000 * percentile([t.ttft for t in timings], 0.5),
        "ttft_p99_ms": 1000 * percentile([t.ttft for t in timings], 0.99),
        "tpot_p50_ms": 1000 * percentile([t.tpot for t in timings], 0.5),
        "tpot_p99_ms": 1000 * percentile([t.tpot for t in timings], 0.99),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", nargs="+", default=["trivium/expert"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3, help="prompts for each stream")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt, about")
    parser.add_argument("--tokens", type=int, default=128, help="bound on each answer")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    rows = []
    for streams in args.streams:
        for model in args.model:
            target = Target(model, args.url, model)
            asyncio.run(concurrently(target, prompts(streams, 16, "warm up"), streams, 8))
            rows.append(measure(target, streams, args.rounds, args.prompt, args.tokens))
    if args.json:
        json.dump(rows, sys.stdout, indent=2)
        print()
        return
    table = Table(
        "model", "streams", "answers", "tokens/s", "TTFT p50 (p99) ms", "TPOT p50 (p99) ms"
    )
    for row in rows:
        table.add_row(
            row["model"],
            str(row["streams"]),
            str(row["answers"]),
            f"{row['tokens_per_second']:,.0f}",
            f"{row['ttft_p50_ms']:.0f} ({row['ttft_p99_ms']:.0f})",
            f"{row['tpot_p50_ms']:.1f} ({row['tpot_p99_ms']:.1f})",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
