"""Around every request: id, trace, key, body limit. Plain ASGI: no stream is buffered."""

from __future__ import annotations

import logging

from opentelemetry.trace import SpanKind
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import BodyTooLarge, InternalError, TriviumError, Unauthenticated
from serve_app.gateway import failures
from serve_app.gateway.access import Keyring
from serve_app.gateway.request_ids import chosen
from serve_app.telemetry import tracing

log = logging.getLogger(__name__)

_UNTRACED = ("/healthz", "/readyz", "/metrics")
_KEYS_IN_URLS = frozenset({"api_key", "api-key", "apikey", "key", "access_token", "token"})


class RequestIdentity:
    """Gives every request an id (the caller's own, if it is a sane one) and a server span."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope)
        request_id = chosen(asked)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                # A document that looks like a page is shown as the JSON it is.
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        if scope["path"] in _UNTRACED:
            await self._app(scope, receive, send_with_id)
            return
        parent = {k: v for k in ("traceparent", "tracestate") if (v := asked.get(k))}
        attributes = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "trivium.request_id": request_id,
        }
        name = f"{scope['method']} {scope['path']}"
        with tracing.span(name, attributes, kind=SpanKind.SERVER, parent=parent):
            await self._app(scope, receive, send_with_id)


class Unforeseen:
    """Answers what nobody foresaw with a 500 without details. Starlette would do so outside of all
    middleware, so that the answer had no id, and a page of another origin could not read it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            request_id = scope["state"]["request_id"]
            log.error("request %s failed", request_id, exc_info=error)
            broke = InternalError(f"something broke on our side (request {request_id})")
            answer = failures.response(broke, bought=failures.bought(scope))
            await answer(scope, receive, send)


class Authentication:
    """Finds out who sends a request before anything of its body is read. Probes, the playground and
    the API's description need no key; all that is below `/v1/` does.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            try:
                if not _KEYS_IN_URLS.isdisjoint(QueryParams(scope["query_string"])):
                    raise Unauthenticated(
                        "an API key in a URL ends up in logs: send it as `Authorization: Bearer "
                        "<key>`, and have this one replaced"
                    )
                address, *_ = scope.get("client") or ("",)
                authorization = Headers(scope=scope).get("authorization")
                caller = await self._keyring.principal(authorization, address)
            except TriviumError as error:
                await failures.response(error)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses a body above `max_bytes`, by its declared length or while it comes in."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await failures.response(self._too_large())(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._max_bytes:
                    raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is above {self._max_bytes} bytes; send less at once")
