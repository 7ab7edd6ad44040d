"""A gateway's application under one version of the settings, and what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serve_app.domain import Generation, Message, RequestContext, Route
from serve_app.errors import SettingsError
from serve_app.expert.adapters import Registry
from serve_app.expert.serving import Adapter, Adapters
from serve_app.fetching import Content, Unfetchable, fetch, parts_of
from serve_app.gateway.accounting import Accounting
from serve_app.gateway.chat import Chat
from serve_app.gateway.http import Services, create_app
from serve_app.gateway.jobs import PATIENCE_S, Runner
from serve_app.gateway.metering import Metering
from serve_app.gateway.readiness import Readiness
from serve_app.gateway.roads import RemoteKnowledge, RemoteModel, RemoteRouter
from serve_app.gateway.timing import Timed
from serve_app.gateway.watch import Watch
from serve_app.handles import Remote
from serve_app.ledger.accounts import Accounts
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.jobs import Jobs
from serve_app.ledger.keys import Keys
from serve_app.ledger.limits import Limit
from serve_app.ledger.meter import CostMeter
from serve_app.ledger.prices import PriceTable
from serve_app.orchestration.calibration import calibration_of
from serve_app.orchestration.embedding import Embedding
from serve_app.orchestration.graph import Orchestrator
from serve_app.orchestration.knowledge import KnowledgeNodes
from serve_app.orchestration.nodes import Nodes
from serve_app.orchestration.prompts import load_prompts
from serve_app.orchestration.roles.assigned import Roles
from serve_app.settings import LedgerSettings, Settings
from serve_app.telemetry.metrics import GatewayMetrics, StandingMetrics

log = logging.getLogger(__name__)

_FIRST_LOOK_S = 10.0


@dataclass(frozen=True, slots=True)
class Peers:
    """The deployments that a gateway calls."""

    router: DeploymentHandle[Any]
    expert: DeploymentHandle[Any]
    retriever: DeploymentHandle[Any]
    frontier: DeploymentHandle[Any]


class _Ledger:
    """What writes to the ledger."""

    def __init__(self, settings: LedgerSettings) -> None:
        password = settings.password.get_secret_value()
        self.database = Database(settings.database, password)
        limits = [Limit.of(each) for each in settings.limits]
        self.book = Book(self.database, limits, retention_days=settings.retention_days)
        # A house whose limits are spent starts all the same, and says so to those who ask.
        self.unlimited = Book(self.database)
        # Connections of its own: a flood of keys must not hold up what answers cost.
        self.keys = Keys(Database(settings.database, password))
        self.jobs = Jobs(self.database)

    async def close(self) -> None:
        await self.keys.close()
        await self.unlimited.close()
        await self.book.close()


class Running:
    """One version of the settings in force, from `start` to `close`.

    Args:
        before: The version that this one follows.
    """

    def __init__(
        self,
        settings: Settings,
        peers: Peers,
        metrics: GatewayMetrics,
        standing: StandingMetrics,
        before: Running | None,
    ) -> None:
        self.settings = settings
        self.peers = peers
        # The ledger may be away just now: what is known of it holds.
        self._migrated = (
            before is not None and before.settings.ledger.database == settings.ledger.database
        )
        same = before is not None and before.settings.expert == settings.expert
        self.adapters: Adapters = before.adapters if before and same else self._adapters()
        self._ledger = _Ledger(settings.ledger)
        self._prices = _prices(settings)
        self.services: Services = self._services(
            metrics, before.services.readiness if before else None
        )
        registry = settings.expert.adapters if settings.expert.lora.enabled else None
        ledger = self._ledger
        named = settings.sync.sources
        self._watch = Watch(ledger.database, ledger.book, self.adapters, registry, standing, named)
        self._working: list[asyncio.Task[None]] = []
        self.app: ASGIApp = create_app(self.services)

    async def start(self) -> None:
        """Return when it can answer.

        Raises:
            SettingsError: The ledger cannot be used; nothing is left open.
        """
        if not self._migrated:
            try:
                await self._ledger.database.migrate()
            except SettingsError:
                await self.close()
                raise
        work = (self._look(), self._watch.run(), self._runner().run())
        self._working = [asyncio.create_task(each) for each in work]
        # A replica that joins knows the adapters before its first request. At a stack's first start
        # the expert takes longer than this, and `/readyz` says so.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.adapters.tried.wait(), _FIRST_LOOK_S)

    def retire(self) -> None:
        """End what is done in the background: another one does it now."""
        for task in self._working:
            task.cancel()

    async def close(self) -> None:
        """Write what is left to be written, and let the ledger go."""
        await asyncio.gather(*self._working, return_exceptions=True)
        await self._ledger.close()

    async def _look(self) -> None:
        await self.services.readiness.warm_up()
        await self.adapters.watch()

    def _services(self, metrics: GatewayMetrics, readiness: Readiness | None) -> Services:
        settings, ledger = self.settings, self._ledger
        router, retriever = settings.router, settings.retrieval
        prices = self._prices
        decider = RemoteRouter(
            Remote(self.peers.router, "router", router.timeout_s),
            router.scaling.max_replicas,
            router.max_batch_size,
            settings.expert.model,
            retriever.collection,
        )
        knowledge = RemoteKnowledge(Remote(self.peers.retriever, "knowledge", retriever.timeout_s))
        orchestrator = self._orchestrator(decider, knowledge, metrics)
        meter = CostMeter(
            prices, settings.ledger.baseline_model, settings.ledger.baseline_context_tokens
        )
        accounts = Accounts(ledger.book, prices, metrics.overclaimed)
        unlimited = Accounts(ledger.unlimited, prices, metrics.overclaimed)
        gateway = settings.gateway
        return Services(
            settings=settings,
            chat=Chat(Accounting(orchestrator, accounts, meter, metrics), gateway.keep_alive_s),
            database=ledger.database,
            book=ledger.book,
            keys=ledger.keys,
            jobs=ledger.jobs,
            router=decider,
            knowledge=knowledge,
            readiness=Readiness(
                Accounting(orchestrator, unlimited, meter, metrics),
                retriever.collection,
                readiness,
            ),
            adapters=self.adapters,
            metering=Metering(
                accounts, gateway.places, gateway.request_timeout_s, retriever.embedding_model
            ),
            metrics=metrics,
        )

    def _runner(self) -> Runner:
        """Who carries out jobs of this replica."""
        ingest = self.settings.gateway.ingest

        async def fetched(url: str) -> Content:
            # The settings may name fewer hosts than when the job was made.
            if parts_of(url, ingest.takes) is None:
                raise Unfetchable("its host is not one of gateway.ingest.hosts")
            return await fetch(url, max_bytes=ingest.max_bytes, accept="*/*")

        return Runner(
            self._ledger.jobs,
            RemoteKnowledge(Remote(self.peers.retriever, "knowledge", PATIENCE_S)),
            Accounts(self._ledger.book, self._prices),
            fetched,
            ingest,
            self.settings.retrieval.embedding_model,
        )

    def _expert(self) -> RemoteModel:
        return RemoteModel(
            Remote(self.peers.expert, "expert", self.settings.gateway.request_timeout_s)
        )

    def _orchestrator(
        self, router: RemoteRouter, knowledge: RemoteKnowledge, metrics: GatewayMetrics
    ) -> Orchestrator:
        settings = self.settings
        expert, frontier, retrieval = settings.expert, settings.frontier, settings.retrieval
        rules = settings.orchestration
        outside = RemoteModel(Remote(self.peers.frontier, "frontier", frontier.timeout_s))
        names = [each.model for each in frontier.upstreams if each.provider]
        models = {
            Route.EXPERT: (Timed(self._expert(), expert.model, metrics), [expert.model]),
            Route.FRONTIER: (Timed(outside, frontier.model, metrics), names),
        }
        prompts = load_prompts(rules.prompts)
        embedding = Embedding(retrieval.embedding_model)
        roles = Roles.of(
            rules,
            models,
            prompts,
            knowledge,
            embedding,
            calibration_of(settings),
            min_relevance=retrieval.min_relevance,
        )
        roads = Nodes(
            router,
            models[Route.EXPERT][0],
            models[Route.FRONTIER][0],
            models={
                Route.EXPERT: ([expert.model], expert.max_output_tokens),
                Route.FRONTIER: (names, frontier.max_output_tokens),
            },
            roles=roles,
            fallbacks=rules.fallbacks,
            most={Route.EXPERT: expert.most_output_tokens},
            refuse=settings.ledger.at_limit == "refuse",
            say_so=rules.without_knowledge == "say so",
            hedge_after_s=frontier.hedge_after_s,
            doubt=rules.doubt,
            prompts=prompts,
            adapters=self.adapters,
        )
        facts = KnowledgeNodes(
            knowledge,
            roles,
            rules,
            top_k=retrieval.top_k,
            whole_tokens=min(retrieval.whole_tokens, expert.room_for_evidence()),
            embedding=embedding,
        )
        return Orchestrator(roads, facts)

    def _adapters(self) -> Adapters:
        """The adapters of the registry; a version serves once it has answered."""
        expert, model = self.settings.expert, self._expert()
        patience_s = self.settings.gateway.request_timeout_s

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
            async for _ in model.generate(context, asked):
                pass

        registry = Registry(expert.adapters) if expert.lora.enabled else None
        return Adapters(registry, prepare, expert.lora.poll_s)


def _prices(settings: Settings) -> PriceTable:
    """The price table, which knows every model in use.

    Raises:
        SettingsError: It does not.
    """
    prices = PriceTable.load(settings.ledger.prices, settings.ledger.machines)
    used = settings.models_used
    for model in used:
        prices.require(model)
    if stale := prices.stale(used, datetime.now(UTC).date()):
        log.warning("prices may have changed, read them again: %s", ", ".join(stale))
    return prices
