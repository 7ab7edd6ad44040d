"""A gateway is taken away while clients stream: it finishes what it has begun."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter

import openai
import pytest

from serve_app.cli.local import RunFile
from tests.integration.conftest import ROOT, STATE, Stack

_CLIENTS = 6


class Streams:
    """Clients that stream one answer after the other until told to stop."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
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
        client = self._stack.openai()
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


def scale(count: int) -> None:
    """So many gateways; returns when the others are gone."""
    addresses = RunFile(STATE / "run.json").addresses()
    assert addresses is not None
    subprocess.run(
        [sys.executable, "-m", "tests.integration.scaling", addresses.dashboard, str(count)],
        cwd=ROOT,
        check=True,
        timeout=180,
    )


@pytest.mark.timeout(400)
def test_a_gateway_that_is_removed_drains(stack: Stack) -> None:
    scale(2)
    try:
        assert len(stack.replicas("Gateway")) == 2
        with Streams(stack) as streams:
            while streams.outcomes.total() < _CLIENTS:
                time.sleep(0.05)
            scale(1)
    finally:
        scale(1)
    assert len(stack.replicas("Gateway")) == 1
    assert set(streams.outcomes) == {"whole"}, json.dumps(streams.outcomes)
    assert streams.outcomes["whole"] >= _CLIENTS
