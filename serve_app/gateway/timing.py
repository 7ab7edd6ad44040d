"""How fast models answer, measured where their answers arrive."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from serve_app.domain import Delta, Generation, RequestContext
from serve_app.orchestration.run import Model
from serve_app.telemetry.metrics import GatewayMetrics


class Timed:
    """A model whose first text, and the pace of what follows it, are counted.

    Args:
        name: Of the model, where its deltas name none.
    """

    def __init__(self, model: Model, name: str, metrics: GatewayMetrics) -> None:
        self._model = model
        self._name = name
        self._metrics = metrics

    async def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncGenerator[Delta]:
        began = time.monotonic()
        first: float | None = None
        name, tokens = self._name, 0
        async with aclosing(self._model.generate(context, generation)) as deltas:
            async for delta in deltas:
                if first is None and delta.said:
                    first = time.monotonic()
                name = delta.model or name
                tokens = delta.usage.completion_tokens if delta.usage else tokens
                yield delta
        # One that broke off, or was left, says nothing of the model's pace.
        # Nor does the house's own warm-up: a model's first answer may take a minute.
        if first is not None and not context.is_warm_up:
            self._metrics.generated(name, first - began, time.monotonic() - first, tokens)
