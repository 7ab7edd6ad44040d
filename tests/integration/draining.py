"""A gateway is taken away while clients stream: what became of their answers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping

import openai

from tests.integration.conftest import ROOT

_CLIENTS = 6


class Streams:
    """Clients that stream one answer after the other until told to stop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._stream) for _ in range(_CLIENTS)]

    def __enter__(self) -> Streams:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _stream(self) -> None:
        client = openai.OpenAI(
            base_url=f"{self._url}/v1", api_key="none", max_retries=0, timeout=120
        )
        while not self._stop.is_set():
            try:
                stream = client.chat.completions.create(
                    model="trivium/expert",
                    messages=[{"role": "user", "content": "Tell me of the sea."}],
                    max_completion_tokens=48,
                    stream=True,
                )
                ended = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
                self.outcomes["whole" if ended and ended[-1] else "cut"] += 1
            except openai.OpenAIError as error:
                self.outcomes[type(error).__name__] += 1


def scale(dashboard: str, count: int, environment: Mapping[str, str] | None = None) -> None:
    """So many gateways; returns when the others are gone.

    Args:
        dashboard: Of Ray, as `host:port`.
        environment: With which its token is found.
    """
    subprocess.run(
        [sys.executable, "-m", "tests.integration.scaling", dashboard, str(count)],
        cwd=ROOT,
        env=None if environment is None else dict(environment),
        check=True,
        timeout=180,
    )


def drained(url: str, dashboard: str, environment: Mapping[str, str] | None = None) -> Counter[str]:
    """How streams ended while one of two gateways was taken away: `whole`, `cut`, or an error."""
    scale(dashboard, 2, environment)
    try:
        with Streams(url) as streams:
            while streams.outcomes.total() < _CLIENTS:
                time.sleep(0.05)
            scale(dashboard, 1, environment)
    finally:
        scale(dashboard, 1, environment)
    assert streams.outcomes.total() >= _CLIENTS
    return streams.outcomes
