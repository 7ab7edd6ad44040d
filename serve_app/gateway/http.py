"""The HTTP application: which path does what."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.middleware.cors import CORSMiddleware

from serve_app import __version__
from serve_app.expert.serving import Adapters
from serve_app.frontier.pictures import admitted
from serve_app.gateway import (
    documents,
    failures,
    ingesting,
    openapi,
    pages,
    paths,
    responses,
    spending,
)
from serve_app.gateway.access import Admission, Keyring
from serve_app.gateway.callers import Caller, context_of
from serve_app.gateway.chat import Chat
from serve_app.gateway.ingesting import Ingesting
from serve_app.gateway.metering import Metering
from serve_app.gateway.middleware import Authentication, BodyLimit, RequestIdentity, Unforeseen
from serve_app.gateway.openapi import ok
from serve_app.gateway.readiness import Readiness
from serve_app.gateway.responses import ChatFormat
from serve_app.gateway.roads import RemoteKnowledge
from serve_app.gateway.schema import (
    MODELS,
    ChatCompletionRequest,
    RouteRequest,
    adapter,
    resolve,
    spelled,
)
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.jobs import Jobs
from serve_app.ledger.keys import Keys
from serve_app.orchestration.run import Router
from serve_app.settings import Settings
from serve_app.telemetry.metrics import GatewayMetrics


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints work with."""

    settings: Settings
    chat: Chat
    database: Database
    book: Book
    keys: Keys
    jobs: Jobs
    router: Router
    knowledge: RemoteKnowledge
    readiness: Readiness
    adapters: Adapters
    metering: Metering
    metrics: GatewayMetrics


def create_app(services: Services) -> FastAPI:
    """The application of one gateway replica, under settings that do not change."""
    gateway = services.settings.gateway
    admission = Admission(gateway.max_concurrent_requests)
    started = int(time.time())

    app = FastAPI(
        title="Trivium",
        version=__version__,
        description="One OpenAI-compatible endpoint, three roads.",
        docs_url=None,  # of `pages`, which loads nothing from elsewhere
        redoc_url=None,
        responses=openapi.ERRORS,
    )
    keyring = Keyring(gateway.api_keys, services.keys, is_open=gateway.open)
    app.add_middleware(BodyLimit, max_bytes=gateway.max_body_bytes)
    app.add_middleware(Authentication, keyring=keyring)
    app.add_middleware(Unforeseen)
    if gateway.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=gateway.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    app.add_middleware(RequestIdentity)
    failures.install(app)
    paths.install()
    metering = services.metering

    @app.post("/v1/chat/completions", responses=openapi.CHAT)
    async def chat(body: ChatCompletionRequest, request: Request, caller: Caller) -> Response:
        """Answer a conversation by the road that does it best for least money."""
        caller.require("chat")
        question = body.question(services.settings.retrieval.collection)
        taken = admitted(question.messages, services.settings.frontier.images)
        question = replace(question, messages=taken)
        if named := adapter(body.model):
            # Found once: whatever is promoted meanwhile, the answer is of this version.
            question = replace(question, adapter=await services.adapters.find(*named))
        here = context_of(request, caller, gateway.request_timeout_s)
        form = ChatFormat(
            f"chatcmpl-{here.request_id}",
            int(time.time()),
            body.model,
            question.collection,
        )
        if not body.stream:
            with admission.admitted():
                return await services.chat.whole(request, here, question, form)
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        return await services.chat.stream(
            request, here, question, form, admission, include_usage=include_usage
        )

    @app.post("/v1/route", responses=ok(openapi.RouteDecision, "The decision."))
    async def route(body: RouteRequest, request: Request, caller: Caller) -> dict[str, Any]:
        """The router's decision alone, with its scores."""
        messages = body.conversation
        async with metering.visit(request, caller, "chat") as visit:
            made = await services.router.decide(
                visit.context, messages, visit.account, body.collection or ""
            )
        return responses.decision(made)

    @app.get("/v1/models", responses=ok(openapi.Models, "The models."))
    async def models(caller: Caller) -> dict[str, Any]:
        """The models that can be named in a request."""
        adapters = [_adapter(each, started) for each in services.adapters.catalogue()]
        roads = [_model(name, started) for name in MODELS]
        return {"object": "list", "data": roads + adapters}

    @app.get("/v1/models/{model:rest}", responses=ok(openapi.Model, "The model."))
    async def model(model: str, caller: Caller) -> dict[str, Any]:
        model = spelled(model)
        resolve(model)
        if named := adapter(model):
            found = await services.adapters.find(*named)
            return _adapter({"name": named[0], "version": found.release.version}, started)
        return _model(model, started)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        waiting = services.readiness.waiting
        waiting += [] if services.adapters.tried.is_set() else ["adapters"]
        status = {
            "status": "ready" if not waiting else "warming up",
            "waiting_for": waiting,
            "refused": {**services.readiness.refused, **_unread(services.adapters)},
        }
        return JSONResponse(status, 503 if waiting else 200)

    # Routes are tried in their order: what is asked most comes first.
    pages.install(app)
    app.include_router(
        spending.routes(
            services.database,
            services.book,
            services.metrics,
            metering,
            is_open=gateway.open,
        )
    )
    app.include_router(documents.routes(services.knowledge, metering))
    app.include_router(ingesting.routes(Ingesting(services.jobs, gateway.ingest), metering))
    return app


def _unread(adapters: Adapters) -> dict[str, str]:
    """That no adapter is known, where it is so: the base answers, and the log says why."""
    if adapters.trouble is None:
        return {}
    return {"adapters": "their registry cannot be read; what served before it serves on"}


_EXPOSED = [  # what scripts of other origins may read, beside the body
    "x-request-id",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    *(
        f"x-trivium-{name}"
        for name in (
            "route",
            "confidence",
            "router-ms",
            "router-version",
            "model",
            "cost-usd",
            "baseline-usd",
            "degraded",
            "adapted",
        )
    ),
]


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "trivium"}


def _adapter(described: dict[str, Any], created: int) -> dict[str, Any]:
    """As vLLM lists an adapter: by `parent` and `root`, which here name the version too."""
    name, version = described["name"], described["version"]
    return {
        **_model(f"trivium/expert:{name}", created),
        "parent": "trivium/expert",
        "root": f"trivium/expert:{name}@{version}" if version else None,
        **({"refused": described["refused"]} if described.get("refused") else {}),
    }
