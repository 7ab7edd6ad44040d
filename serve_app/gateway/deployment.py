"""The gateway as a Serve deployment: HTTP in front, the graph inside, handles behind.

All settings are its `user_config`: Serve hands changed ones to the running replicas. Keys and
passwords come from the environment.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serve_app.errors import SettingsError
from serve_app.gateway.exchange import Exchange
from serve_app.gateway.request_ids import SaidOnce
from serve_app.gateway.running import Peers, Running
from serve_app.priority import after_engines
from serve_app.settings import from_args
from serve_app.telemetry import tracing
from serve_app.telemetry.metrics import GatewayMetrics, StandingMetrics

log = logging.getLogger(__name__)


@serve.ingress()
class GatewayServer:
    """Takes requests, runs them through the graph, and answers."""

    def __init__(
        self,
        router: DeploymentHandle[Any],
        expert: DeploymentHandle[Any],
        retriever: DeploymentHandle[Any],
        frontier: DeploymentHandle[Any],
        otlp_endpoint: str | None,
    ) -> None:
        after_engines()
        tracing.configure(otlp_endpoint, "gateway")
        self._peers = Peers(router, expert, retriever, frontier)
        self._metrics, self._standing = GatewayMetrics(), StandingMetrics()
        self._running: Running | None = None
        self._exchange = Exchange()

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Take new settings, or go on with the old ones. Requests under way end under the old.

        Raises:
            SettingsError: They are bad and there are no old ones.
        """
        before = self._running
        try:
            settings = from_args(config)
            running = Running(settings, self._peers, self._metrics, self._standing, before)
            await running.start()
        except SettingsError:
            if before is None:
                raise
            log.exception("the gateway's new settings are bad; the old ones stay in force")
            return
        self._running = running
        self._exchange.put(running)

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        return SaidOnce(self._exchange)
