"""Plain objects that stand in for other deployments, and short ways to build domain objects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from serve_app.domain import (
    Chunk,
    Cost,
    Decision,
    Delta,
    Document,
    FormatOutcome,
    Generation,
    Message,
    ModelCall,
    Release,
    RequestContext,
    Route,
    SearchQuery,
    Usage,
)
from serve_app.expert.serving import Adapter, Adapters
from serve_app.gateway.chat import Chat
from serve_app.gateway.http import Services, create_app
from serve_app.gateway.readiness import Readiness
from serve_app.gateway.roads import RemoteKnowledge
from serve_app.ledger.prices import CostMeter, PriceTable, TokenPrice
from serve_app.orchestration.graph import Orchestrator
from serve_app.orchestration.nodes import Nodes
from serve_app.orchestration.run import Question
from serve_app.retrieval.index import IngestReport
from serve_app.settings import OrchestrationSettings, Settings, from_args
from serve_app.telemetry.metrics import GatewayMetrics

EXPERT, FRONTIER = "small", "large"

Step = str | Delta | Exception | asyncio.Event


def decision(route: Route = Route.EXPERT, volatility: float = 0.1) -> Decision:
    rest = {road: 0.1 for road in Route if road is not route}
    return Decision(
        route,
        {route: 0.8, **rest},
        volatility,
        complexity=0.2,
        confidence=0.8,
        stage="1",
        reason="because",
        volatile=volatility >= 0.5,
        latency_ms=1.5,
    )


def chunk(text: str, document_id: str = "policy", relevance: float = 0.9, **more: Any) -> Chunk:
    fields: dict[str, Any] = {"title": "Policy", "heading": "", "as_of": None, **more}
    return Chunk(
        id=f"{document_id}#0",
        document_id=document_id,
        text=text,
        relevance=relevance,
        **fields,
    )


def context(patience_s: float = 20.0, tenant: str = "default") -> RequestContext:
    return RequestContext("test-request", time.time() + patience_s, tenant)


def question(text: str = "What is the return window?", **fields: Any) -> Question:
    fields.setdefault("messages", (Message("user", text),))
    return Question(collection="default", **fields)


class FixedRouter:
    """Always the same decision, or the same error."""

    def __init__(self, outcome: Decision | Exception | None = None) -> None:
        self.outcome = outcome or decision()
        self.asked: list[list[str]] = []

    async def decide(self, context: RequestContext, messages: Sequence[Message]) -> Decision:
        self.asked.append([m.content for m in messages if m.role == "user"])
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class ScriptedModel:
    """Plays a script: texts and deltas are yielded, errors raised, events waited for.

    Usage comes with every delta: 10 prompt tokens, and one completion token for each text so far.
    """

    def __init__(self, *script: Step) -> None:
        self.script = script
        self.asked: list[Generation] = []
        self.running = 0
        self.started = asyncio.Event()

    async def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncIterator[Delta]:
        self.asked.append(generation)
        self.running += 1
        self.started.set()
        spoken = 0
        try:
            for step in self.script:
                match step:
                    case str():
                        spoken += 1
                        yield Delta(step, usage=Usage(10, spoken))
                    case Delta():
                        yield step
                    case Exception():
                        raise step
                    case asyncio.Event():
                        await step.wait()
            yield Delta(finish_reason="stop", usage=Usage(10, spoken))
        finally:
            self.running -= 1


class FixedKnowledge(RemoteKnowledge):
    """Answers each search with the next of the given results; the last one repeats."""

    def __init__(self, *results: list[Chunk] | Exception) -> None:
        self.results = list(results) or [[]]
        self.queries: list[str] = []
        self.searches: list[SearchQuery] = []
        self.tenants: list[str] = []
        self.ingested: list[Document] = []

    async def search(
        self, context: RequestContext, collection: str, query: SearchQuery
    ) -> list[Chunk]:
        self.queries.append(query.text)
        self.searches.append(query)
        self.tenants.append(context.tenant)
        return self._next()

    async def whole(
        self, context: RequestContext, collection: str, max_tokens: int
    ) -> list[Chunk] | None:
        everything = [c for each in self.results if isinstance(each, list) for c in each]
        return everything if sum(len(c.text.split()) for c in everything) <= max_tokens else None

    async def ingest(
        self, context: RequestContext, collection: str, documents: list[Document]
    ) -> IngestReport:
        self._next()
        self.tenants.append(context.tenant)
        self.ingested += documents
        return IngestReport(len(documents), len(documents))

    async def documents(self, context: RequestContext, collection: str) -> list[dict[str, Any]]:
        return [{"id": each.document_id} for each in self._next()]

    async def document(
        self, context: RequestContext, collection: str, document_id: str
    ) -> list[Chunk]:
        return self._next()

    async def delete(self, context: RequestContext, collection: str, document_id: str) -> None:
        self._next()

    def _next(self) -> list[Chunk]:
        result = self.results[0]
        if len(self.results) > 1:
            self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


class FixedAdapters(Adapters):
    """Those given, as if they had been promoted."""

    def __init__(self, adapters: Sequence[Adapter] = ()) -> None:
        super().__init__(None, self._never)
        self._current = {each.release.name: each for each in adapters}

    async def _never(self, adapter: Adapter) -> None:
        raise AssertionError("there is no registry to prepare releases of")


class RecordedMetrics(GatewayMetrics):
    """Keeps what was counted: outcome, whether degraded, and the model calls of each answer."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.degraded: list[bool] = []
        self.calls: list[ModelCall] = []
        self.formats: list[tuple[Release, str]] = []

    def formatted(self, release: Release, outcome: FormatOutcome) -> None:
        self.formats.append((release, outcome))

    def answered(
        self,
        decision: Decision,
        outcome: str,
        degraded: bool,
        calls: list[ModelCall],
        cost: Cost,
    ) -> None:
        self.outcomes.append(outcome)
        self.degraded.append(degraded)
        self.calls += calls


class House:
    """A whole gateway over plain objects; replace a part, then ask `app` for the application."""

    def __init__(
        self,
        *,
        router: FixedRouter | None = None,
        expert: ScriptedModel | None = None,
        frontier: ScriptedModel | None = None,
        knowledge: FixedKnowledge | None = None,
        gateway: Mapping[str, Any] | None = None,
        verify: bool = True,
        whole_tokens: int = 0,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        self.adapters = FixedAdapters(adapters)
        self.router = router or FixedRouter()
        self.expert = expert or ScriptedModel("Hello", " there.")
        self.frontier = frontier or ScriptedModel("Deep", " thought.")
        self.knowledge = knowledge or FixedKnowledge()
        self.metrics = RecordedMetrics()
        self.settings: Settings = from_args({"gateway": dict(gateway or {})})
        self.orchestrator = Orchestrator(
            Nodes(
                self.router,
                self.expert,
                self.frontier,
                self.knowledge,
                models={Route.EXPERT: (EXPERT, 256), Route.FRONTIER: (FRONTIER, 1024)},
                fallbacks=OrchestrationSettings().fallbacks,
                top_k=4,
                min_relevance=0.04,
                verify=verify,
                adapters=self.adapters,
                whole_tokens=whole_tokens,
            )
        )

    @property
    def app(self) -> FastAPI:
        settings = self.settings
        meter = CostMeter(prices(), FRONTIER, 1000)
        return create_app(
            Services(
                settings=settings,
                chat=Chat(self.orchestrator, meter, self.metrics, settings.gateway.keep_alive_s),
                router=self.router,
                knowledge=self.knowledge,
                readiness=Readiness(self.orchestrator, "default"),
                adapters=self.adapters,
            )
        )


def prices() -> PriceTable:
    def row(dollars_in: float, dollars_out: float) -> TokenPrice:
        return TokenPrice.model_validate(
            {"input": dollars_in, "output": dollars_out, "source": "test", "as_of": "2026-01-01"}
        )

    return PriceTable({EXPERT: row(0.1, 0.2), FRONTIER: row(2.0, 8.0)})
