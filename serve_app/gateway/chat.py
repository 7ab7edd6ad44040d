"""`POST /v1/chat/completions`: one question, answered whole or as a stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

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

_FIRST_PIECE_S = 0.75  # with the first comment inside of a second, whatever the way adds


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
            await unless_left(request, task)
            answer = task.result()
        cost = self._accounting.cost(question, run, answer)
        return JSONResponse(
            form.completion(answer, cost),
            headers={
                **_headers(
                    _facts(answer.decision, answer.degraded, answer.adapted, _model(answer))
                ),
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
        """The answer as server-sent events.

        Headers wait a moment for the first piece: until then another road may take over, and an
        error has a status of its own. Where nothing comes they leave with what is known, comments
        keep the connection open, and the last chunk tells the rest, as it does where more of an
        answer had to be done in another way since.
        """
        stack = contextlib.AsyncExitStack()
        try:
            stack.enter_context(admission.admitted())
            run, task = await stack.enter_async_context(
                self._accounting.answering(context, question, form.model, streaming=True)
            )
            request.state.purse = run.purse
            pieces = run.pieces()
            first = asyncio.ensure_future(_next(pieces))
            stack.callback(first.cancel)
            early = not await unless_left(request, first, within_s=_FIRST_PIECE_S)
            if not early and first.result() is None:
                await task
        except BaseException:
            await stack.aclose()
            raise
        facts = _facts(run.decision, run.degraded, run.adapted, None if early else run.model)
        known = len(run.degraded)

        async def events() -> AsyncGenerator[bytes]:
            async with stack:
                if early:
                    yield sse.KEEP_ALIVE
                try:
                    piece = await first
                    # What is there together leaves together: each write has its price.
                    yield sse.event(form.first(), *([] if piece is None else [form.piece(piece)]))
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
                told = _facts(answer.decision, answer.degraded, answer.adapted, _model(answer))
                late = early or len(answer.degraded) > known
                end = [form.last(answer, told if late else None)]
                if include_usage:
                    cost = self._accounting.cost(question, run, answer)
                    end.append(form.usage(answer, cost))
                yield sse.event(*end)
            # By now the ledger has it: what was answered whole is never lost there.
            yield sse.DONE

        opened = events()
        # Started here, so that it is closed even if the response is never sent.
        head = await anext(opened)
        return StreamingResponse(
            sse.kept_alive(head, opened, self._keep_alive_s),
            media_type="text/event-stream",
            headers={
                **_headers(facts),
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
            },
        )


async def unless_left(
    request: Request, work: asyncio.Future[Any], within_s: float | None = None
) -> bool:
    """Wait for `work`; raises `ClientDisconnect` when nobody waits for it any more.

    Args:
        within_s: How long at most; work that takes longer goes on.

    Returns:
        Whether it is done.
    """

    async def left() -> None:
        # The body has been read: what comes next is the end of the connection.
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.create_task(left())
    try:
        either: set[asyncio.Future[Any]] = {work, leaving}
        await asyncio.wait(either, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and leaving.done():
            work.cancel()
            raise ClientDisconnect
        return work.done()
    finally:
        leaving.cancel()


async def _next(pieces: AsyncIterator[Piece]) -> Piece | None:
    return await anext(pieces, None)


def _model(answer: Answer) -> str | None:
    if not answer.calls:
        return None
    last = answer.calls[-1]
    return f"{last.model}:{last.adapter}" if last.adapter else last.model


def _facts(
    decision: Decision | None,
    degraded: Iterable[str],
    adapted: Iterable[str],
    model: str | None,
) -> dict[str, str]:
    """What is told of an answer, by name."""
    facts: dict[str, str] = {}
    if decision:
        facts |= {
            "route": decision.route.value,
            "confidence": f"{decision.confidence:.3f}",
            "router-ms": f"{decision.latency_ms:.2f}",
        }
        if decision.versions:
            facts["router-version"] = decision.version
    if model:
        facts["model"] = model
    for name, told in (("degraded", degraded), ("adapted", adapted)):
        if said := ", ".join(told):
            facts[name] = said
    return facts


def _headers(facts: dict[str, str]) -> dict[str, str]:
    return {f"x-trivium-{name}": value for name, value in facts.items()}
