"""Clients that stream from every road while the cluster changes under them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import openai

from tests.integration.callers import repeated

NO_KEY = "frontier-not-configured"
UNAVAILABLE = "knowledge_unavailable"  # the error's code while Milvus is away
ROADS = ("expert", "knowledge", "frontier")
QUESTIONS = {
    "expert": "Rewrite in a friendly tone: your parcel is late.",
    "knowledge": "What are the opening hours of our stores?",
    "frontier": "Three pumps fill a tank in 4, 6 and 12 hours. How long do they take together?",
}


@dataclass(slots=True)
class Heard:
    """What became of the requests so far.

    Attributes:
        lost: Of each request without a whole answer: when, which road, and why.
        without: How often a road said that it cannot be taken now, or that another stood in.
    """

    whole: int = 0
    lost: list[str] = field(default_factory=list)
    without: Counter[str] = field(default_factory=Counter)


def streamed(client: openai.OpenAI, road: str, heard: Heard) -> None:
    """Ask one question and read the answer to its end."""
    started = time.strftime("%H:%M:%S")
    try:
        with client.chat.completions.with_streaming_response.create(
            model=f"trivium/{road}",
            messages=[{"role": "user", "content": QUESTIONS[road]}],
            max_completion_tokens=48,
            stream=True,
        ) as answer:
            lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
            degraded = answer.headers.get("x-trivium-degraded")
    except openai.InternalServerError as error:
        if error.status_code == 503 and error.code == UNAVAILABLE:
            heard.without[road] += 1
        else:
            heard.lost.append(f"{started} {road}: {error}")
        return
    except Exception as error:  # whatever it is, an answer is lost
        heard.lost.append(f"{started} {road}: {type(error).__name__}: {error}")
        return
    if any(UNAVAILABLE in line for line in lines):
        heard.without[road] += 1  # said after the stream's beginning, as an event
        return
    if not lines or lines[-1] != "data: [DONE]" or any('"error"' in line for line in lines):
        heard.lost.append(f"{started} {road}: cut: {lines[-1:]}")
        return
    heard.whole += 1
    if degraded and degraded != NO_KEY:
        heard.without[road] += 1


@contextmanager
def streaming(url: str, clients: int = 2, roads: tuple[str, ...] = ROADS) -> Iterator[Heard]:
    """So many clients per road, each asking again and again, until the block ends."""
    heard = Heard()

    def caller(road: str) -> None:
        # A connection of its own, each time: the Service then chooses anew.
        with openai.OpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300
        ) as client:
            streamed(client, road, heard)

    calls = [lambda road=road: caller(road) for road in roads for _ in range(clients)]
    with repeated(*calls):
        yield heard
