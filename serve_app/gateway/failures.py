"""Every failure as an OpenAI error envelope."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from serve_app.errors import (
    InvalidRequest,
    NotFound,
    TriviumError,
    UnknownParameter,
)
from serve_app.gateway.wire import located, path


def install(app: FastAPI) -> None:
    """Answer exceptions in the envelope; `middleware.Unforeseen` does so with all others."""

    @app.exception_handler(TriviumError)
    async def ours(request: Request, error: TriviumError) -> JSONResponse:
        return response(error, bought=bought(request.scope))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return response(_validation(list(error.errors()), error.body))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, TriviumError):
            # FastAPI takes whatever stops it from reading a body for a parsing error.
            return response(error.__cause__, bought=bought(request.scope))
        if error.status_code == 404:
            return response(NotFound(f"there is nothing at {request.url.path}; see /docs"))
        if error.status_code == 400 and "integer string conversion" in str(error.__cause__):
            # Python's parser reads no whole number of more than 4,300 digits.
            return response(InvalidRequest("a number is beyond 64 bits; send it as a text"))
        if error.status_code == 400:
            return response(InvalidRequest("the body is not valid JSON in UTF-8"))
        refusal = InvalidRequest(f"{request.method} is not possible at {request.url.path}")
        return JSONResponse(refusal.envelope(), error.status_code, dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nginx's number for it; nobody reads it


def response(error: TriviumError, *, bought: bool = False) -> JSONResponse:
    """The envelope, with `retry-after` where trying again can help.

    SDKs send again whatever ends with 429 or 5xx, unless `x-should-retry` says otherwise.

    Args:
        bought: A provider may have been paid: to send it again may cost the same once more.
    """
    headers = {}
    if error.status == 429 or error.status >= 500:
        useless = error.status == 429 and error.retry_after_s is None
        headers["x-should-retry"] = "false" if bought or useless else "true"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
        headers["retry-after-ms"] = str(round(error.retry_after_s * 1000))
    return JSONResponse(error.envelope(), error.status, headers)


def bought(scope: Scope) -> bool:
    """Whether a provider may have been paid for this request."""
    purse = scope.get("state", {}).get("purse")
    return purse is not None and purse.bought


def _validation(errors: list[dict[str, Any]], body: Any) -> InvalidRequest:
    """The first mistake of a request, in one sentence; the value itself is not repeated."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return InvalidRequest(f"the body is not valid JSON: {first['ctx']['error']}")
    where, *place = first["loc"]
    missing = first["type"] in ("missing", "value_error")  # the latter of a validator of ours
    param = located(place, body, missing=missing) if where == "body" else path(place)
    if first["type"] == "extra_forbidden":
        return UnknownParameter(f"unknown parameter {param!r}", param=param)
    if not param and first["type"] != "value_error":
        return InvalidRequest("the body must be a JSON object with content-type application/json")
    problem = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{param or 'the body'}: {problem}", param=param or None)
