"""Measuring one or many concurrent chat streams from the outside."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: a server, one of its models, and the body that goes with it."""

    name: str
    url: str
    model: str
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """One stream, in seconds: time to first token (TTFT) and to the last (E2E)."""

    ttft: float
    e2e: float
    tokens: int

    @property
    def tpot(self) -> float:
        """Time per output token after the first."""
        return (self.e2e - self.ttft) / max(1, self.tokens - 1)


async def stream(client: httpx.AsyncClient, target: Target, prompt: str, tokens: int) -> Timing:
    """Ask once and read the whole stream."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    if target.system:
        messages.insert(0, {"role": "system", "content": target.system})
    body = {
        "model": target.model,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    ttft, counted = None, 0
    async with client.stream("POST", f"{target.url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                counted = event["usage"]["completion_tokens"]
            if ttft is None and any(c["delta"].get("content") for c in event["choices"]):
                ttft = time.perf_counter() - started
    if ttft is None:
        raise RuntimeError(f"{target.name} sent no text")
    return Timing(ttft, time.perf_counter() - started, counted)


async def concurrently(
    target: Target, prompts: Sequence[str], streams: int, tokens: int
) -> tuple[list[Timing], float]:
    """Keep `streams` streams open until every prompt is answered; returns timings and seconds."""
    queue = list(reversed(prompts))
    timings: list[Timing] = []
    async with httpx.AsyncClient(timeout=300.0) as client:

        async def worker() -> None:
            while queue:
                timings.append(await stream(client, target, queue.pop(), tokens))

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(streams)))
        return timings, time.perf_counter() - started


def percentile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between the ordered values; `share` from 0 to 1."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]
