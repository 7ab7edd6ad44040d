"""The frontier proxy as a Serve deployment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

from serve_app.coalescing import coalesce
from serve_app.domain import Delta, Generation, RequestContext
from serve_app.frontier.masking import Masked
from serve_app.frontier.upstreams import Upstreams
from serve_app.settings import FrontierSettings
from serve_app.telemetry import metrics, tracing


class FrontierServer:
    """Answers by somebody else's model, or says that none is configured."""

    def __init__(self, settings: FrontierSettings, otlp_endpoint: str | None) -> None:
        tracing.configure(otlp_endpoint, "frontier")
        self._settings = settings
        self._upstreams = Upstreams(settings)
        self._mask = settings.mask
        metrics.circuits(self._upstreams.circuits)

    async def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncIterator[Delta]:
        """Stream the provider's answer; the last delta carries `finish_reason` and `usage`."""
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": (self._settings.provider or "").partition("-")[0] or None,
            "gen_ai.request.model": self._settings.model or None,
            "gen_ai.request.max_tokens": generation.max_tokens,
        }
        name = f"chat {self._settings.model or 'frontier'}"
        with tracing.span(name, attributes, parent=context.trace) as span:
            ask = partial(self._upstreams.generate, deadline=context.deadline)
            deltas = Masked(ask, self._mask).generate(generation)
            async with aclosing(coalesce(deltas)) as merged:
                async for delta in merged:
                    if delta.provider_id:
                        span.set_attribute("gen_ai.response.id", delta.provider_id)
                        span.set_attribute("gen_ai.response.model", delta.model or "")
                    if usage := delta.usage:
                        span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
                        span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
                    yield delta
