"""The retriever as a Serve deployment.

How it ranks and how long it waits are its `user_config`; where the store is and which models embed
are fixed when a replica is made.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serve_app.domain import Chunk, Document, RequestContext, SearchQuery
from serve_app.errors import InvalidRequest, SettingsError, TriviumError
from serve_app.priority import after_engines
from serve_app.retrieval import admission
from serve_app.retrieval.embedder import CrossEncoder, EmbeddingModels, check_window, loading
from serve_app.retrieval.index import DocumentPage, IngestReport, StoredDocument
from serve_app.retrieval.port import METHODS
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.sketching import Sketcher
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import RetrievalSettings, from_args
from serve_app.sketches import VectorModel
from serve_app.telemetry import tracing
from serve_app.telemetry.metrics import IndexMetrics

log = logging.getLogger(__name__)

_MENDED_S = 10.0
_SKETCHED_S = 1.0


class RetrieverServer:
    """Evidence for queries, and the way in for documents.

    With Milvus Lite this replica owns the file: a bulk run reaches it through `on_store`.

    Args:
        fixed: Where the store is and which models there are (`{"retrieval": …}`), as long as the
            replica lives; the store's token comes from the environment.
        model_paths: Folders of embedding models, by their names in the settings.
        sketching: Gives what makes a sketch's vectors: the router's encoder.
    """

    def __init__(
        self,
        fixed: Mapping[str, Any],
        model_paths: Mapping[str, str],
        sketching: Callable[[], VectorModel],
        otlp_endpoint: str | None,
    ) -> None:
        after_engines()
        tracing.configure(otlp_endpoint, "retriever")
        everything = from_args(fixed)
        settings = everything.retrieval
        self._metrics = IndexMetrics()
        self._configured = False
        models = EmbeddingModels(settings.embedding_name, model_paths, settings.embedding)
        with loading(models.default):
            models.model(models.default)(["warm up"])
        check_window(settings.chunk_tokens, models.default, models.model(models.default).window)
        self._models = models
        reranker = None
        if settings.rerank_model:
            with loading(settings.rerank_model):
                reranker = CrossEncoder(settings.rerank_model)
        self._store = MilvusStore.of(settings)
        self._registry = Registry.of(everything)
        self._retriever = Retriever(
            self._store,
            self._registry,
            models,
            settings.chunk_tokens,
            _rules(settings),
            reranker,
            settings.tenancy,
        )
        self._sketcher = Sketcher(self._store, self._registry, sketching())
        self._working: list[asyncio.Task[None]] = []

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Take new settings (`{"retrieval": …}`), or go on with the old ones.

        Raises:
            SettingsError: They are bad and there are no old ones.
        """
        try:
            settings = from_args(config).retrieval
            model = self._models.default
            check_window(settings.chunk_tokens, model, self._models.model(model).window)
        except SettingsError:
            if not self._configured:
                raise
            log.exception("the retriever's new settings are bad; the old ones stay in force")
            return
        self._configured = True
        self._store.be_patient(settings.timeout_s)
        self._retriever.chunk_tokens = settings.chunk_tokens
        self._retriever.rules = _rules(settings)
        if not self._working:
            self._working = [asyncio.create_task(each()) for each in (self._mend, self._sketch)]

    async def search(
        self, context: RequestContext, collection: str, query: SearchQuery
    ) -> list[Chunk]:
        attributes = {
            "gen_ai.operation.name": "retrieval",
            "gen_ai.data_source.id": collection,
            "trivium.retrieval.mode": query.mode,
            "trivium.retrieval.since": query.since,
            "trivium.retrieval.until": query.until,
        }
        with tracing.span(f"retrieval {collection}", attributes, parent=context.trace) as span:
            async with asyncio.timeout(context.deadline - time.time()):
                chunks = await self._retriever.search(
                    collection, context.tenant, query, context.groups
                )
            span.set_attribute("trivium.retrieval.chunks", len(chunks))
            return chunks

    async def whole(
        self, context: RequestContext, collection: str, max_tokens: int
    ) -> list[Chunk] | None:
        return await self._retriever.whole(collection, context.tenant, max_tokens, context.groups)

    async def nearness(
        self, context: RequestContext, collection: str, query: str, texts: Sequence[str]
    ) -> list[float]:
        attributes = {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.data_source.id": collection,
            "trivium.embeddings.texts": len(texts),
        }
        with tracing.span(f"embeddings {collection}", attributes, parent=context.trace):
            return await self._retriever.nearness(collection, context.tenant, query, texts)

    async def ingest(
        self, context: RequestContext, collection: str, documents: list[Document]
    ) -> IngestReport:
        with tracing.span(f"ingest {collection}", parent=context.trace) as span:
            report = await self._retriever.ingest(
                collection, context.tenant, documents, context.groups
            )
            span.set_attribute("trivium.ingest.chunks", report.chunks)
            span.set_attribute("trivium.ingest.embedded", report.embedded)
            live = [each for each in documents if each.metadata.get("as_of")]
            moments = [admission.moment(each)[1] for each in live]
            self._metrics.ingested(moments, time.time(), report.chunks, report.embedded)
            return report

    async def documents(
        self,
        context: RequestContext,
        collection: str,
        after: str,
        limit: int,
        source: str | None = None,
    ) -> DocumentPage:
        return await self._retriever.documents(
            collection, context.tenant, after, limit, source, context.groups
        )

    async def document(
        self, context: RequestContext, collection: str, document_id: str
    ) -> StoredDocument:
        return await self._retriever.document(
            collection, context.tenant, document_id, context.groups
        )

    async def delete(self, context: RequestContext, collection: str, document_id: str) -> int:
        return await self._retriever.delete(collection, context.tenant, document_id, context.groups)

    async def delete_collection(self, context: RequestContext, collection: str) -> int:
        return await self._retriever.delete_collection(collection, context.tenant, context.groups)

    async def on_store(self, context: RequestContext, method: str, *args: Any) -> Any:
        """A method of the store, for `port.RemoteStore`; no request from outside gets here.

        Raises:
            InvalidRequest: It is none of `port.Port`.
        """
        if method not in METHODS:
            raise InvalidRequest(f"{method!r} is not for others to call on the store")
        async with asyncio.timeout(context.deadline - time.time()):
            return await getattr(self._store, method)(*args)

    async def sketches(
        self, context: RequestContext, collection: str, tenants: Sequence[str]
    ) -> dict[str, tuple[int, bytes | None]]:
        """What tenants' parts of a collection speak of: the version and content of each sketch."""
        found = {}
        for tenant in tenants:
            place = self._retriever.tenancy.place(collection, tenant)
            drawn = (await self._registry.sketches.get(place, [tenant]))[tenant]
            found[tenant] = (drawn.version, drawn.content)
        return found

    async def sketches_changed(
        self, context: RequestContext, since: float
    ) -> tuple[float, list[tuple[str, str, int]]]:
        """As `Sketches.changed`, by the names of collections that callers know."""
        now, changed = await self._registry.sketches.changed(since)
        named = self._retriever.tenancy.collection
        return now, [(named(place), tenant, version) for place, tenant, version in changed]

    async def _sketch(self) -> None:
        """Keep the sketches in step, as long as this replica lives."""
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * _SKETCHED_S)  # noqa: S311  # no secret
            try:
                await self._sketcher.step()
            except TriviumError as error:
                log.warning("sketches of the knowledge base are behind: %s", error)
            except Exception:
                log.exception("sketches of the knowledge base are behind")

    async def _mend(self) -> None:
        """Finish what replicas that died have left, as long as this one lives, and tell when the
        documents changed: bulk runs write them too."""
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * _MENDED_S)  # noqa: S311  # no secret
            try:
                if (changed := await self._registry.documents.changed_at()) is not None:
                    self._metrics.changed(changed)
                done = await self._retriever.mend()
            except TriviumError as error:
                log.warning("what was left to be mended waits: %s", error)
            except Exception:
                log.exception("what was left to be mended could not be")
            else:
                if done.documents or done.removed:
                    log.warning("mended what a writer has left: %s", done)


def _rules(settings: RetrievalSettings) -> Rules:
    weights = (settings.dense_weight, settings.sparse_weight)
    return Rules(weights, settings.half_life_s, settings.max_collections)
