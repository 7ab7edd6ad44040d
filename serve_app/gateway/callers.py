"""Who sends a request, as endpoints see it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from serve_app.errors import Unauthenticated
from serve_app.gateway.access import Keyring, Principal

_IN_URLS = ("api_key", "api-key", "apikey", "key", "access_token", "token")


async def _principal(request: Request) -> Principal:
    if any(name in request.query_params for name in _IN_URLS):
        raise Unauthenticated(
            "an API key in a URL ends up in logs: send it as `Authorization: Bearer <key>`, and "
            "have this one replaced"
        )
    keyring: Keyring = request.app.state.keyring
    return await keyring.principal(request.headers.get("authorization"))


Caller = Annotated[Principal, Depends(_principal)]
