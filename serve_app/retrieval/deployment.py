"""The retriever as a Serve deployment."""

from __future__ import annotations

from typing import Any

from serve_app.domain import Chunk, Document, RequestContext
from serve_app.retrieval.embedder import Embedder
from serve_app.retrieval.retriever import IngestReport, Retriever
from serve_app.retrieval.store import MilvusStore, Mode
from serve_app.settings import RetrievalSettings
from serve_app.telemetry import tracing


class RetrieverServer:
    """Evidence for queries, and the way in for documents."""

    def __init__(
        self,
        settings: RetrievalSettings,
        embedding_model: str,
        otlp_endpoint: str | None,
    ) -> None:
        tracing.configure(otlp_endpoint, "retriever")
        embedder = Embedder(embedding_model)
        embedder(["warm up"])
        store = MilvusStore(
            settings.milvus_uri,
            settings.milvus_token.get_secret_value(),
            embedder.dimension,
            settings.timeout_s,
        )
        self._retriever = Retriever(store, embedder, settings.chunk_tokens)

    async def search(
        self,
        context: RequestContext,
        collection: str,
        query: str,
        k: int,
        mode: Mode = "hybrid",
    ) -> list[Chunk]:
        attributes = {
            "gen_ai.operation.name": "retrieval",
            "gen_ai.data_source.id": collection,
            "trivium.retrieval.mode": mode,
        }
        with tracing.span(f"retrieval {collection}", attributes, parent=context.trace) as span:
            chunks = await self._retriever.search(collection, context.tenant, query, k, mode)
            span.set_attribute("trivium.retrieval.chunks", len(chunks))
            return chunks

    async def ingest(
        self, context: RequestContext, collection: str, documents: list[Document]
    ) -> IngestReport:
        with tracing.span(f"ingest {collection}", parent=context.trace) as span:
            report = await self._retriever.ingest(collection, context.tenant, documents)
            span.set_attribute("trivium.ingest.chunks", report.chunks)
            return report

    async def documents(self, context: RequestContext, collection: str) -> list[dict[str, Any]]:
        return await self._retriever.documents(collection, context.tenant)

    async def document(
        self, context: RequestContext, collection: str, document_id: str
    ) -> list[Chunk]:
        return await self._retriever.document(collection, context.tenant, document_id)

    async def delete(self, context: RequestContext, collection: str, document_id: str) -> int:
        return await self._retriever.delete(collection, context.tenant, document_id)
