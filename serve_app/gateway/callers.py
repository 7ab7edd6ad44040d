"""Who sends a request, as endpoints see it."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from serve_app.domain import RequestContext
from serve_app.gateway.access import Principal

# For the API's description. `middleware.Authentication` has checked the key before the body came.
_BEARER = HTTPBearer(auto_error=False, description="A key of `trivium keys create`.")


async def _principal(
    request: Request,
    _: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
) -> Principal:
    caller: Principal = request.state.caller
    return caller


Caller = Annotated[Principal, Depends(_principal)]


def context_of(request: Request, caller: Principal, timeout_s: float) -> RequestContext:
    """What travels with a request through every hop."""
    return RequestContext(
        request_id=request.state.request_id,
        deadline=time.time() + timeout_s,
        tenant=caller.tenant,
        api_key=caller.name,
        groups=tuple(sorted(caller.groups)),
    )
