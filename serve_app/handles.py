"""Calls to other deployments: deadline, trace and errors, the same for all of them.

`Remote` wraps a Ray Serve `DeploymentHandle`. What comes out is either a result or an error of
`serve_app.errors`; Ray's own exceptions and their tracebacks stay inside. `Together` makes one call
out of many small ones.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_app.domain import RequestContext
from serve_app.errors import (
    DeadlineExceeded,
    InternalError,
    Overloaded,
    ReplicaDied,
    TriviumError,
    Unavailable,
)
from serve_app.telemetry.tracing import outgoing

log = logging.getLogger(__name__)


class Remote:
    """One deployment, as its callers see it.

    Args:
        name: For messages, e.g. `expert`.
        timeout_s: Upper bound of one call; the request's own deadline may be nearer.
    """

    def __init__(self, handle: DeploymentHandle[Any], name: str, timeout_s: float) -> None:
        self._unary = handle
        self._streaming = handle.options(stream=True)
        self._name = name
        self._timeout_s = timeout_s

    async def call(
        self, method: str, context: RequestContext, *args: Any, lane: int | None = None
    ) -> Any:
        """Call a method that returns one result.

        Args:
            lane: For deployments that tell lanes apart (`router.placement.Lanes`).

        Raises:
            TriviumError: What the method raised, or why it could not be reached in time.
        """
        handle = self._unary if lane is None else self._unary.options(session_id=str(lane))
        response = getattr(handle, method).remote(self.onward(context), *args)
        return await self.within(context, response)

    async def within(self, context: RequestContext, result: Awaitable[Any]) -> Any:
        """What is awaited, if it comes while the request has time.

        Raises:
            TriviumError: As `call`.
        """
        try:
            async with asyncio.timeout(self._patience(context)):
                return await result
        except Exception as error:
            raise self._translated(error) from error

    async def stream(
        self, method: str, context: RequestContext, *args: Any, replica_with: str = ""
    ) -> AsyncGenerator[Any]:
        """Call a method that yields results; the deadline covers the whole stream.

        Closing this generator cancels the work at the other end.

        Args:
            replica_with: Something that replicas load (`serve.multiplexed`); one that has it is
                preferred.
        """
        handle = self._streaming
        if replica_with:
            handle = handle.options(multiplexed_model_id=replica_with)
        response = getattr(handle, method).remote(self.onward(context), *args)
        try:
            async with asyncio.timeout(self._patience(context)):
                async for item in response:
                    yield item
        except Exception as error:
            raise self._translated(error) from error
        finally:
            response.cancel()

    def onward(self, context: RequestContext) -> RequestContext:
        """The context as the other end gets it: under this span, and no longer than we wait."""
        # Who is called may not work on when nobody here waits any more.
        deadline = min(context.deadline, time.time() + self._timeout_s)
        return replace(context, trace=outgoing(), deadline=deadline)

    def _patience(self, context: RequestContext) -> float:
        return max(0.0, min(self._timeout_s, context.deadline - time.time()))

    def _translated(self, error: Exception) -> TriviumError:
        cause = error.cause if isinstance(error, RayTaskError) else error
        match cause:
            case TriviumError():
                return cause
            case BackPressureError():
                return Overloaded(
                    f"the {self._name} road is at its limit; try again shortly",
                    retry_after_s=1.0,
                )
            case TimeoutError():
                return DeadlineExceeded(f"the {self._name} road did not answer in time")
            case RayActorError():
                return ReplicaDied(f"the {self._name} road is restarting", retry_after_s=2.0)
            case DeploymentUnavailableError():
                return Unavailable(f"the {self._name} road is restarting", retry_after_s=2.0)
            case _:
                log.error("%s failed", self._name, exc_info=cause)
                return InternalError(f"the {self._name} road failed; see the log by request id")


class Together:
    """Calls that travel together: each takes along whatever was asked while others were under way.

    For work that is cheap beside an RPC, such as a routing decision. Nothing waits for company:
    what is there leaves at once where a lane is free.

    Args:
        method: Takes a context and a list of (context, item) pairs; returns a result for each.
        lanes: Most calls under way: one for each replica.
        items: Most items in one call.
    """

    def __init__(self, remote: Remote, method: str, *, lanes: int, items: int) -> None:
        self._remote = remote
        self._method = method
        # A heap: calls under way are then in neighbouring lanes, which lead to different replicas.
        # It begins anywhere, so that callers who are seldom busy do not all begin with one replica.
        first = secrets.randbelow(lanes)
        self._free = list(range(first, first + lanes))
        self._items = items
        self._lanes = lanes
        self._carried = 0
        self._waiting: deque[tuple[RequestContext, Any, asyncio.Future[Any]]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()

    async def call(self, context: RequestContext, item: Any) -> Any:
        """The result for one item.

        Raises:
            TriviumError: As `Remote.call`.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((self._remote.onward(context), item, result))
        loop.call_soon(self._send)  # after those who ask in this same turn of the loop
        return await self._remote.within(context, result)

    def _send(self) -> None:
        while self._free and self._waiting:
            # An even share of all that wait or are under way: a lane that took what is left would
            # be the longest from then on, and its callers would come back together.
            everything = len(self._waiting) + self._carried
            share = min(self._items, math.ceil(everything / self._lanes), len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(share)]
            # Who has given up needs no answer.
            if wanted := [each for each in taken if not each[2].done()]:
                lane = heapq.heappop(self._free)
                self._carried += len(wanted)
                # Of many requests: Serve may not take it for a part of the one that sends it, and
                # end it when that one's client leaves.
                task = asyncio.create_task(self._carry(wanted, lane), context=Context())
                self._under_way.add(task)
                task.add_done_callback(partial(self._returned, lane, len(wanted)))

    def _returned(self, lane: int, items: int, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._carried -= items
        heapq.heappush(self._free, lane)
        self._send()

    async def _carry(
        self, asked: list[tuple[RequestContext, Any, asyncio.Future[Any]]], lane: int
    ) -> None:
        patient = max((context for context, _, _ in asked), key=lambda each: each.deadline)
        try:
            found = await self._remote.call(
                self._method, patient, [(context, item) for context, item, _ in asked], lane=lane
            )
        except TriviumError as error:
            for _, _, result in asked:
                if not result.done():
                    result.set_exception(error)
            return
        for (_, _, result), each in zip(asked, found, strict=True):
            if not result.done():
                result.set_result(each)
