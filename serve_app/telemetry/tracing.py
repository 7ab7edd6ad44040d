"""One trace per request, over every process it passes through.

Spans follow the OpenTelemetry GenAI semantic conventions. The exporter speaks OTLP over HTTP and
reads the standard `OTEL_EXPORTER_OTLP_*` variables for headers, certificates and the like.
Without `configure`, the API's own no-op tracer answers: a span then costs about a microsecond and
no context is sent along.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

_tracer = trace.get_tracer("trivium")


def configure(endpoint: str | None, service: str) -> None:
    """Export this process's spans as `trivium-<service>`; `None` leaves tracing off."""
    if endpoint is None:
        return
    # The SDK is imported only when it is used: off costs nothing.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(
        resource=Resource.create({"service.name": f"trivium-{service}"}),
    )
    exporter = OTLPSpanExporter(endpoint, timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    trace.set_tracer_provider(provider)


@contextlib.contextmanager
def span(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: Mapping[str, str] | None = None,
) -> Iterator[Span]:
    """Open a span around a block; an exception marks it as failed and goes on its way.

    Args:
        attributes: Set at start; a value of `None` is left out.
        parent: W3C headers of a remote parent; without it the current span is the parent.
    """
    token = otel_context.attach(propagate.extract(dict(parent))) if parent else None
    try:
        with _tracer.start_as_current_span(
            name,
            kind=kind,
            attributes={k: v for k, v in (attributes or {}).items() if v is not None},
            record_exception=False,
            set_status_on_exception=False,
        ) as opened:
            try:
                yield opened
            except BaseException as error:
                # The type only: messages may carry what the caller wrote.
                opened.set_attribute("error.type", type(error).__name__)
                opened.set_status(Status(StatusCode.ERROR))
                raise
    finally:
        if token is not None:
            otel_context.detach(token)


def trace_id() -> str | None:
    """Of the current trace, as W3C writes it; `None` when tracing is off."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def outgoing() -> dict[str, str]:
    """W3C headers of the current span, to send along with a call. Empty when tracing is off."""
    headers: dict[str, str] = {}
    if trace.get_current_span().get_span_context().is_valid:
        propagate.inject(headers)
    return headers
