"""Plain objects that stand in for other deployments, and short ways to build domain objects."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
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
from serve_app.gateway.accounting import Accounting
from serve_app.gateway.chat import Chat
from serve_app.gateway.http import Services, create_app
from serve_app.gateway.metering import Metering
from serve_app.gateway.readiness import Readiness
from serve_app.gateway.roads import RemoteKnowledge
from serve_app.ledger.accounts import Accounts
from serve_app.ledger.bills import Bill
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.jobs import Jobs
from serve_app.ledger.keys import Keys
from serve_app.ledger.limits import Limit
from serve_app.ledger.meter import CostMeter
from serve_app.ledger.prices import ComputePrice, PriceTable, TokenPrice
from serve_app.orchestration import evidence
from serve_app.orchestration.calibration import load_calibrations
from serve_app.orchestration.embedding import Embedding
from serve_app.orchestration.graph import Orchestrator
from serve_app.orchestration.knowledge import KnowledgeNodes
from serve_app.orchestration.nodes import Nodes
from serve_app.orchestration.prompts import load_prompts
from serve_app.orchestration.roles.assigned import Roles
from serve_app.orchestration.run import Purse, Question
from serve_app.retrieval.index import DocumentPage, IngestReport, StoredDocument
from serve_app.settings import (
    BUNDLED,
    LedgerSettings,
    OrchestrationSettings,
    Settings,
    from_args,
)
from serve_app.sketches import VectorModel
from serve_app.telemetry.metrics import GatewayMetrics

EXPERT, FRONTIER = "small", "large"
EMBEDS = "reader"
MIN_RELEVANCE = 0.04
CALIBRATION = load_calibrations()[BUNDLED]
QUOTES = {"answer": ("rule",)}  # who fills the roles where evidence is quoted

Step = str | Delta | Exception | asyncio.Event


def decision(
    route: Route = Route.EXPERT, volatility: float = 0.1, barred: tuple[Route, ...] = ()
) -> Decision:
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
        barred=barred,
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


def unread() -> VectorModel:
    """In place of the router's encoder, for sketches that nobody reads."""
    return VectorModel("unread", lambda texts: np.ones((len(texts), 2), np.float32))


class FixedRouter:
    """Always the same decision, or the same error. Under a policy with pins, unless it is open."""

    def __init__(
        self, outcome: Decision | Exception | None = None, *, is_open: bool = False
    ) -> None:
        self.outcome = outcome or decision()
        self.is_open = is_open
        self.asked: list[list[str]] = []

    async def may_bar(self, context: RequestContext) -> bool:
        return not self.is_open

    async def decide(
        self,
        context: RequestContext,
        messages: Sequence[Message],
        purse: Purse | None,
        collection: str = "",
    ) -> Decision:
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
    ) -> AsyncGenerator[Delta]:
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
            if not any(isinstance(step, Delta) and step.finish_reason for step in self.script):
                yield Delta(finish_reason="stop", usage=Usage(10, spoken))
        finally:
            self.running -= 1


class InProcess:
    """The face of a Serve handle on an object in this process, for `Remote`."""

    def __init__(self, target: object) -> None:
        self._target = target

    def options(self, **_: Any) -> InProcess:
        return self

    def __getattr__(self, method: str) -> SimpleNamespace:
        called = getattr(self._target, method)
        return SimpleNamespace(remote=lambda *args: asyncio.ensure_future(called(*args)))


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

    async def nearness(
        self, context: RequestContext, collection: str, query: str, texts: Sequence[str]
    ) -> list[float]:
        """The share of the query's words that stand in the text."""
        asked = evidence.words(query)
        return [len(asked & evidence.words(each)) / max(1, len(asked)) for each in texts]

    async def ingest(
        self, context: RequestContext, collection: str, documents: list[Document]
    ) -> IngestReport:
        self._next()
        self.tenants.append(context.tenant)
        self.ingested += documents
        return IngestReport(len(documents), len(documents))

    async def documents(
        self,
        context: RequestContext,
        collection: str,
        after: str,
        limit: int,
        source: str | None = None,
    ) -> DocumentPage:
        found = sorted(each.document_id for each in self._next() if each.document_id > after)
        return DocumentPage([{"id": name} for name in found[:limit]], len(found) > limit)

    async def document(
        self, context: RequestContext, collection: str, document_id: str
    ) -> StoredDocument:
        return StoredDocument(self._next())

    async def delete(self, context: RequestContext, collection: str, document_id: str) -> int:
        return len(self._next())

    async def delete_collection(self, context: RequestContext, collection: str) -> int:
        return len(self._next())

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
        self.failures: list[str] = []
        self.judgements: list[tuple[str, bool]] = []
        self.overclaims: list[str] = []

    def overclaimed(self, model: str) -> None:
        self.overclaims.append(model)

    def formatted(self, release: Release, outcome: FormatOutcome) -> None:
        self.formats.append((release, outcome))

    def failed(self, error: BaseException) -> None:
        self.failures.append(getattr(error, "code", type(error).__name__))

    def judged(self, judge: str, *, good: bool) -> None:
        self.judgements.append((judge, good))

    def answered(
        self,
        decision: Decision,
        outcome: str,
        degraded: Sequence[str],
        calls: Sequence[ModelCall],
        cost: Cost,
        seconds: float,
    ) -> None:
        self.outcomes.append(outcome)
        self.degraded.append(bool(degraded))
        self.calls += calls


class House:
    """A whole gateway over plain objects; replace a part, then ask `app` for the application."""

    def __init__(
        self,
        *,
        router: FixedRouter | None = None,
        expert: ScriptedModel | None = None,
        frontier: ScriptedModel | None = None,
        knowledge: RemoteKnowledge | None = None,
        gateway: Mapping[str, Any] | None = None,
        ledger: Mapping[str, Any] | None = None,
        whole_tokens: int = 0,
        adapters: Sequence[Adapter] = (),
        picture_hosts: Sequence[str] = (),
        **orchestration: Any,
    ) -> None:
        self.adapters = FixedAdapters(adapters)
        rules = OrchestrationSettings(**orchestration)
        self.router = router or FixedRouter()
        self.expert = expert or ScriptedModel("Hello", " there.")
        self.frontier = frontier or ScriptedModel("Deep", " thought.")
        self.knowledge: Any = knowledge or FixedKnowledge()
        self.metrics = RecordedMetrics()
        # Open, unless a test is about keys.
        face = {"open": "api_keys" not in (gateway or {}), **(gateway or {})}
        self.settings: Settings = from_args(
            {
                "gateway": face,
                "ledger": dict(ledger or {}),
                "frontier": {"images": {"hosts": list(picture_hosts)}},
            }
        )
        # A default is a path in the state folder, which a test has none of.
        named = self.settings.ledger.database
        default = LedgerSettings().database
        self.ledger_path = str(ledger_file()) if named == default else named
        self.database = Database(self.ledger_path)
        limits = [Limit.of(each) for each in self.settings.ledger.limits]
        self.book = opened(Book(self.database, limits))
        prompts = load_prompts(rules.prompts)
        roles = Roles.of(
            rules,
            {Route.EXPERT: (self.expert, [EXPERT]), Route.FRONTIER: (self.frontier, [FRONTIER])},
            prompts,
            self.knowledge,
            Embedding(EMBEDS),
            CALIBRATION,
            min_relevance=MIN_RELEVANCE,
        )
        self.orchestrator = Orchestrator(
            Nodes(
                self.router,
                self.expert,
                self.frontier,
                models={Route.EXPERT: ([EXPERT], 256), Route.FRONTIER: ([FRONTIER], 1024)},
                fallbacks=rules.fallbacks,
                roles=roles,
                refuse=self.settings.ledger.at_limit == "refuse",
                say_so=rules.without_knowledge == "say so",
                doubt=rules.doubt,
                prompts=prompts,
                adapters=self.adapters,
            ),
            KnowledgeNodes(
                self.knowledge,
                roles,
                rules,
                top_k=4,
                whole_tokens=whole_tokens,
                embedding=Embedding(EMBEDS),
            ),
        )

    @property
    def accounting(self) -> Accounting:
        meter = CostMeter(prices(), FRONTIER, 1000)
        accounts = Accounts(self.book, prices(), self.metrics.overclaimed)
        return Accounting(self.orchestrator, accounts, meter, self.metrics)

    @functools.cached_property
    def readiness(self) -> Readiness:
        return Readiness(self.accounting, "default")

    @property
    def app(self) -> FastAPI:
        settings = self.settings
        gateway = settings.gateway
        accounts = Accounts(self.book, prices())
        return create_app(
            Services(
                settings=settings,
                chat=Chat(self.accounting, settings.gateway.keep_alive_s),
                database=self.database,
                book=self.book,
                keys=Keys(self.database),
                jobs=Jobs(self.database),
                router=self.router,
                knowledge=self.knowledge,
                readiness=self.readiness,
                adapters=self.adapters,
                metering=Metering(accounts, gateway.places, gateway.request_timeout_s, EMBEDS),
                metrics=self.metrics,
            )
        )


@functools.cache
def _empty_ledger() -> Path:
    path = Path(tempfile.mkdtemp()) / "empty.db"

    def make() -> None:
        async def migrated() -> None:
            database = Database(str(path))
            await database.migrate()
            await database.close()

        asyncio.run(migrated())

    # In a thread of its own, as this one may have a loop that is running.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return path


def ledger_file() -> Path:
    """A ledger in which nothing is written yet."""
    path = Path(tempfile.mkdtemp()) / "ledger.db"
    shutil.copy(_empty_ledger(), path)
    return path


class Free:
    """A purse that pays for everything."""

    bought = False

    @contextlib.asynccontextmanager
    async def paying(
        self, models: Sequence[str], purpose: str, generation: Generation
    ) -> AsyncIterator[Bill]:
        yield Bill(generation, models)


def prices() -> PriceTable:
    """A small model on a machine of our own, at $0.1 and $0.2 a million tokens, and a large one."""
    told: dict[str, Any] = {"source": "test", "as_of": date(2026, 1, 1)}
    small = ComputePrice(
        usd_per_hour=3600,
        prompt_tokens_per_second=1e7,
        completion_tokens_per_second=5e6,
        utilisation=1,
        **told,
    )
    reader = ComputePrice(usd_per_hour=3600, prompt_tokens_per_second=1e8, utilisation=1, **told)
    outside = {FRONTIER: TokenPrice(input=2, output=8, **told)}
    return PriceTable(outside, {EXPERT: small, EMBEDS: reader})


_books: list[Book] = []


def opened(book: Book) -> Book:
    """The same book; `close_books` closes it at the end of the test."""
    _books.append(book)
    return book


async def close_books() -> None:
    while _books:
        # Those of another loop, which is gone, need no more closing.
        with contextlib.suppress(RuntimeError):
            await _books.pop().close()
