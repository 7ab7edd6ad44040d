"""The gateway as a Serve deployment: HTTP in front, the graph inside, handles behind."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serve_app.domain import Generation, Message, RequestContext, Route
from serve_app.expert.adapters import Registry
from serve_app.expert.serving import Adapter, Adapters
from serve_app.gateway.accounting import Accounting
from serve_app.gateway.chat import Chat
from serve_app.gateway.http import Services, create_app
from serve_app.gateway.metering import Metering
from serve_app.gateway.readiness import Readiness
from serve_app.gateway.request_ids import SaidOnce
from serve_app.gateway.roads import RemoteKnowledge, RemoteModel, RemoteRouter
from serve_app.gateway.timing import Timed
from serve_app.gateway.watch import Watch
from serve_app.handles import Remote
from serve_app.ledger.accounts import Accounts
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.keys import Keys
from serve_app.ledger.limits import Limit
from serve_app.ledger.meter import CostMeter
from serve_app.ledger.prices import PriceTable
from serve_app.orchestration.graph import Orchestrator
from serve_app.orchestration.knowledge import KnowledgeNodes
from serve_app.orchestration.nodes import Nodes
from serve_app.orchestration.run import Model
from serve_app.settings import ExpertSettings, Settings
from serve_app.telemetry import tracing
from serve_app.telemetry.metrics import GatewayMetrics, StandingMetrics


@serve.ingress()
class GatewayServer:
    """Takes requests, runs them through the graph, and answers."""

    def __init__(
        self,
        settings: Settings,
        router: DeploymentHandle[Any],
        expert: DeploymentHandle[Any],
        retriever: DeploymentHandle[Any],
        frontier: DeploymentHandle[Any],
    ) -> None:
        tracing.configure(settings.telemetry.otlp_traces_endpoint, "gateway")
        metrics = GatewayMetrics()
        patience = settings.gateway.request_timeout_s
        decider = RemoteRouter(
            Remote(router, "router", settings.router.timeout_s),
            settings.router.scaling.max_replicas,
            settings.router.max_batch_size,
            settings.expert.model,
        )
        model = RemoteModel(Remote(expert, "expert", patience))
        outside = RemoteModel(Remote(frontier, "frontier", settings.frontier.timeout_s))
        adapters = _adapters(settings.expert, model, patience)
        knowledge = RemoteKnowledge(Remote(retriever, "knowledge", settings.retrieval.timeout_s))
        orchestrator = Orchestrator(
            Nodes(
                decider,
                Timed(model, settings.expert.model, metrics),
                Timed(outside, settings.frontier.model, metrics),
                models={
                    Route.EXPERT: (
                        [settings.expert.model],
                        settings.expert.max_output_tokens,
                    ),
                    Route.FRONTIER: (
                        [each.model for each in settings.frontier.upstreams if each.provider],
                        settings.frontier.max_output_tokens,
                    ),
                },
                fallbacks=settings.orchestration.fallbacks,
                most={Route.EXPERT: settings.expert.most_output_tokens},
                verify=settings.orchestration.verify,
                refuse=settings.ledger.at_limit == "refuse",
                say_so=settings.orchestration.without_knowledge == "say so",
                hedge_after_s=settings.frontier.hedge_after_s,
                adapters=adapters,
            ),
            KnowledgeNodes(
                knowledge,
                settings.orchestration,
                top_k=settings.retrieval.top_k,
                min_relevance=settings.retrieval.min_relevance,
                whole_tokens=min(
                    settings.retrieval.whole_tokens, settings.expert.room_for_evidence()
                ),
                embeds=settings.retrieval.embedding_model,
            ),
        )
        ledger = settings.ledger
        prices = PriceTable.load(ledger.prices, ledger.machines)
        meter = CostMeter(prices, ledger.baseline_model, ledger.baseline_context_tokens)
        self._database = Database(ledger.database, ledger.password.get_secret_value())
        limits = [Limit.of(each) for each in ledger.limits]
        book = Book(self._database, limits, retention_days=ledger.retention_days)
        accounts = Accounts(book, prices, metrics.overclaimed)
        accounting = Accounting(orchestrator, accounts, meter, metrics)
        # A house whose limits are spent starts all the same, and says so to those who ask.
        warm_up = Accounts(Book(self._database), prices, metrics.overclaimed)
        unlimited = Accounting(orchestrator, warm_up, meter, metrics)
        self._services = Services(
            settings=settings,
            chat=Chat(accounting, settings.gateway.keep_alive_s),
            database=self._database,
            book=book,
            # Connections of its own: a flood of keys must not hold up what answers cost.
            keys=Keys(Database(ledger.database, ledger.password.get_secret_value())),
            router=decider,
            knowledge=knowledge,
            readiness=Readiness(unlimited, settings.retrieval.collection),
            adapters=adapters,
            metering=Metering(
                accounts, settings.gateway.places, patience, settings.retrieval.embedding_model
            ),
            metrics=metrics,
        )
        registry = settings.expert.adapters if settings.expert.lora.enabled else None
        self._watch = Watch(self._database, book, adapters, registry, StandingMetrics())

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        await self._database.migrate()
        self._watching = asyncio.create_task(self._watch.run())
        return SaidOnce(create_app(self._services))


def _adapters(settings: ExpertSettings, expert: Model, patience_s: float) -> Adapters:
    """The adapters of the settings' registry; a version serves once it has answered."""

    async def prepare(adapter: Adapter) -> None:
        context = RequestContext("adapter", time.time() + patience_s)
        structured = adapter.contract and adapter.contract.structured
        asked = Generation(
            (Message("user", "Hello"),),
            max_tokens=1,
            # The engine compiles the contract's grammar, which no request waits for then.
            options={"structured_outputs": structured} if structured else {},
            adapter=adapter.release,
        )
        async for _ in expert.generate(context, asked):
            pass

    registry = Registry(settings.adapters) if settings.lora.enabled else None
    return Adapters(registry, prepare, settings.lora.poll_s)
