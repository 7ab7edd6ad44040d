"""`POST /v1/chat/completions`: one question, answered whole or as a stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect

from serve_app.domain import Answer, Decision, RequestContext
from serve_app.errors import InternalError, TriviumError
from serve_app.gateway import sse
from serve_app.gateway.access import Admission
from serve_app.gateway.accounting import Accounting
from serve_app.gateway.responses import ChatFormat
from serve_app.orchestration.run import Piece, Question

log = logging.getLogger(__name__)

T = TypeVar("T")


class Chat:
    """Answers questions over HTTP. One instance serves all requests of a replica."""

    def __init__(self, accounting: Accounting, keep_alive_s: float) -> None:
        self._accounting = accounting
        self._keep_alive_s = keep_alive_s

    async def whole(
        self, request: Request, context: RequestContext, question: Question, form: ChatFormat
    ) -> Response:
        """The answer as one JSON object."""
        async with self._accounting.answering(context, question, form.model) as (run, task):
            request.state.purse = run.purse
            answer = await unless_left(request, task)
        cost = self._accounting.cost(question, run, answer)
        return JSONResponse(
            form.completion(answer, cost),
            headers={
                **_headers(answer.decision, list(answer.degraded), _model(answer)),
                "x-trivium-cost-usd": f"{cost.total:.9f}",
                "x-trivium-baseline-usd": f"{cost.baseline:.9f}",
            },
        )

    async def stream(
        self,
        request: Request,
        context: RequestContext,
        question: Question,
        form: ChatFormat,
        admission: Admission,
        *,
        include_usage: bool,
    ) -> Response:
        """The answer as server-sent events. Errors before the first byte have their own status."""
        stack = contextlib.AsyncExitStack()
        try:
            stack.enter_context(admission.admitted())
            run, task = await stack.enter_async_context(
                self._accounting.answering(context, question, form.model, streaming=True)
            )
            request.state.purse = run.purse
            pieces = run.pieces()
            # Headers wait for the first piece: until then another road may still take over.
            first = await unless_left(request, asyncio.ensure_future(_next(pieces)))
            if first is None:
                await task
        except BaseException:
            await stack.aclose()
            raise

        async def events() -> AsyncGenerator[bytes]:
            async with stack:
                # What is there together leaves together: each write has its price.
                yield sse.event(form.first(), *([] if first is None else [form.piece(first)]))
                try:
                    async for piece in pieces:
                        yield sse.event(form.piece(piece))
                    answer = await task
                except TriviumError as error:
                    yield sse.event(error.envelope())
                    return
                except Exception as error:
                    log.error("stream %s failed", context.request_id, exc_info=error)
                    yield sse.event(InternalError("the answer broke off").envelope())
                    return
                end = [form.last(answer)]
                if include_usage:
                    cost = self._accounting.cost(question, run, answer)
                    end.append(form.usage(answer, cost))
                yield sse.event(*end)
            # By now the ledger has it: what was answered whole is never lost there.
            yield sse.DONE

        assert run.decision is not None, "text was emitted before a decision was made"
        opened = events()
        # Started here, so that it is closed even if the response is never sent.
        head = await anext(opened)
        return StreamingResponse(
            sse.kept_alive(head, opened, self._keep_alive_s),
            media_type="text/event-stream",
            headers={
                **_headers(run.decision, run.degraded, run.model),
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
            },
        )


async def unless_left(request: Request, work: asyncio.Future[T]) -> T:
    """The result of `work`; raises `ClientDisconnect` when nobody waits for it any more."""

    async def left() -> None:
        # The body has been read: what comes next is the end of the connection.
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.create_task(left())
    try:
        either: set[asyncio.Future[Any]] = {work, leaving}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        work.cancel()
        raise ClientDisconnect
    finally:
        leaving.cancel()


async def _next(pieces: AsyncIterator[Piece]) -> Piece | None:
    return await anext(pieces, None)


def _model(answer: Answer) -> str | None:
    if not answer.calls:
        return None
    last = answer.calls[-1]
    return f"{last.model}:{last.adapter}" if last.adapter else last.model


def _headers(decision: Decision, degraded: list[str], model: str | None) -> dict[str, str]:
    headers = {
        "x-trivium-route": decision.route.value,
        "x-trivium-confidence": f"{decision.confidence:.3f}",
        "x-trivium-router-ms": f"{decision.latency_ms:.2f}",
    }
    if model:
        headers["x-trivium-model"] = model
    if degraded:
        headers["x-trivium-degraded"] = ", ".join(degraded)
    return headers
