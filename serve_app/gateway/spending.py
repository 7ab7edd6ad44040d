"""`/v1/feedback` and `/v1/usage`: was an answer good, and what have answers cost?"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from serve_app.errors import LedgerUnavailable
from serve_app.gateway.callers import Caller
from serve_app.gateway.metering import Metering
from serve_app.gateway.openapi import Judged, Usage, ok
from serve_app.gateway.wire import Body, unless_empty
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.feedback import judge
from serve_app.ledger.limits import Payer
from serve_app.ledger.report import By, Span, left, spend
from serve_app.ledger.retention import DAY_S, kept_from
from serve_app.telemetry.metrics import GatewayMetrics

_COMPLETION = "chatcmpl-"


class FeedbackRequest(Body):
    """`POST /v1/feedback`. `id` is a completion's, or its `x-request-id`."""

    id: str = Field(min_length=1, max_length=160)
    good: bool


def routes(
    database: Database,
    book: Book,
    metrics: GatewayMetrics,
    metering: Metering,
    *,
    is_open: bool,
) -> APIRouter:
    """The endpoints over one ledger. Callers see and judge what is their tenant's alone.

    Args:
        is_open: The house needs no keys, so that all who ask are one tenant.
    """
    router = APIRouter(prefix="/v1")

    @router.post("/feedback", responses=ok(Judged, "It is noted."))
    async def feedback(body: FeedbackRequest, request: Request, caller: Caller) -> dict[str, Any]:
        """Was an answer good? The last word counts."""
        request_id = body.id.removeprefix(_COMPLETION)
        async with metering.visit(request, caller, "chat"):
            try:
                await judge(database, caller.tenant, request_id, good=body.good)
            except (SQLAlchemyError, OSError):
                raise LedgerUnavailable("feedback cannot be written; try again shortly") from None
        metrics.judged("caller", good=body.good)
        return {"object": "feedback", "id": body.id, "good": body.good}

    @router.get("/usage", responses=ok(Usage, "What was spent, and what is left."))
    async def usage(
        request: Request,
        caller: Caller,
        days: Annotated[int, unless_empty(30), Query(ge=1, le=366)] = 30,
    ) -> dict[str, Any]:
        """What the caller's tenant has spent, by day and road, and what its limits leave."""
        async with metering.visit(request, caller, "chat"):
            now = book.clock()
            span = Span(max(now - days * DAY_S, kept_from(now, book.retention_days)), now)
            try:
                lines = await spend(database, span, (By.DAY, By.ROUTE), tenant=caller.tenant)
                rest = await left(database, book.limits, Payer(caller.tenant, caller.name), now)
            except (SQLAlchemyError, OSError):
                raise LedgerUnavailable("usage cannot be read; try again shortly") from None
        return {
            "object": "usage",
            "tenant": caller.tenant,
            "start": int(span.start),
            "data": [line.public() for line in lines],
            "limits": [each.public(alone=is_open) for each in rest],
        }

    return router
