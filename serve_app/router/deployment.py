"""The router as a Serve deployment: a pool of CPU replicas that decide in batches."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ray import serve

from serve_app.domain import Decision, RequestContext
from serve_app.router.encoder import Encoder
from serve_app.router.heads import Heads
from serve_app.router.semantic import SemanticRouter
from serve_app.settings import RouterSettings
from serve_app.telemetry import tracing


class RouterServer:
    """Decides. Batches whatever is waiting while the previous batch runs; never waits for more."""

    def __init__(
        self, settings: RouterSettings, model: Path, heads: Path, otlp_endpoint: str | None
    ) -> None:
        tracing.configure(otlp_endpoint, "router")
        encoder = Encoder(model, max_tokens=settings.max_tokens, threads=settings.threads)
        self._router = SemanticRouter(encoder, Heads.load(heads))
        self._batched.set_max_batch_size(settings.max_batch_size)
        self._batched.set_batch_wait_timeout_s(settings.batch_wait_s)
        self._router.decide(["warm up"] * settings.max_batch_size)

    async def decide(self, context: RequestContext, query: str) -> Decision:
        """Where `query` should go."""
        with tracing.span("route", parent=context.trace) as span:
            decision: Decision = await self._batched(query)
            span.set_attribute("trivium.route", decision.route.value)
            span.set_attribute("trivium.router.confidence", decision.confidence)
            span.set_attribute("trivium.router.stage", decision.stage)
            return decision

    @serve.batch
    async def _batched(self, queries: list[str]) -> list[Decision]:
        return await asyncio.to_thread(self._router.decide, queries)
