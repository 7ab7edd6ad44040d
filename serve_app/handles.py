"""Calls to other deployments: deadline, trace and errors, the same for all of them.

`Remote` wraps a Ray Serve `DeploymentHandle`. What comes out is either a result or an error of
`serve_app.errors`; Ray's own exceptions and their tracebacks stay inside.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_app.domain import RequestContext
from serve_app.errors import (
    DeadlineExceeded,
    InternalError,
    Overloaded,
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

    async def call(self, method: str, context: RequestContext, *args: Any) -> Any:
        """Call a method that returns one result.

        Raises:
            TriviumError: What the method raised, or why it could not be reached in time.
        """
        response = getattr(self._unary, method).remote(self._onward(context), *args)
        try:
            async with asyncio.timeout(self._patience(context)):
                return await response
        except Exception as error:
            raise self._translated(error) from error

    async def stream(self, method: str, context: RequestContext, *args: Any) -> AsyncGenerator[Any]:
        """Call a method that yields results; the deadline covers the whole stream.

        Closing this generator cancels the work at the other end.
        """
        response = getattr(self._streaming, method).remote(self._onward(context), *args)
        try:
            async with asyncio.timeout(self._patience(context)):
                async for item in response:
                    yield item
        except Exception as error:
            raise self._translated(error) from error
        finally:
            response.cancel()

    def _onward(self, context: RequestContext) -> RequestContext:
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
            case RayActorError() | DeploymentUnavailableError():
                return Unavailable(f"the {self._name} road is restarting", retry_after_s=2.0)
            case _:
                log.error("%s failed", self._name, exc_info=cause)
                return InternalError(f"the {self._name} road failed; see the log by request id")
