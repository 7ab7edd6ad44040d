"""A gateway is taken away while clients stream: it finishes what it has begun."""

from __future__ import annotations

import pytest

from serve_app.cli.local import RunFile
from tests.integration.conftest import STATE, Stack
from tests.integration.draining import drained


@pytest.mark.timeout(400)
def test_a_gateway_that_is_removed_drains(stack: Stack) -> None:
    addresses = RunFile(STATE / "run.json").addresses()
    assert addresses is not None
    outcomes = drained(stack.url, addresses.dashboard)
    assert len(stack.replicas("Gateway")) == 1
    assert set(outcomes) == {"whole"}, outcomes
