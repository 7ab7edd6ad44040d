"""A gateway is taken away while clients stream: what became of their answers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping

import openai

from tests.integration.callers import repeated
from tests.integration.conftest import ROOT

_CLIENTS = 6


def streamed(client: openai.OpenAI) -> str:
    """How one answer ended: `whole`, `cut`, or an error."""
    try:
        stream = client.chat.completions.create(
            model="trivium/expert",
            messages=[{"role": "user", "content": "Tell me of the sea."}],
            max_completion_tokens=48,
            stream=True,
        )
        ended = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
    except openai.OpenAIError as error:
        return type(error).__name__
    return "whole" if ended and ended[-1] else "cut"


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
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
    outcomes: Counter[str] = Counter()

    def stream() -> None:
        outcomes[streamed(client)] += 1

    scale(dashboard, 2, environment)
    try:
        with repeated(*[stream] * _CLIENTS):
            while outcomes.total() < _CLIENTS:
                time.sleep(0.05)
            scale(dashboard, 1, environment)
    finally:
        scale(dashboard, 1, environment)
    return outcomes
