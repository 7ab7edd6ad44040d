"""A gateway whose knowledge base is real, in Milvus Lite, and embeds by hashed words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loadtest.words import Models
from serve_app.domain import Chunk, Document, RequestContext, SearchQuery
from serve_app.gateway.roads import RemoteKnowledge
from serve_app.retrieval.index import DocumentPage, IngestReport, StoredDocument
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore


class LocalKnowledge(RemoteKnowledge):
    """As the retriever's deployment, without Ray in between."""

    def __init__(self, folder: Path) -> None:
        self.store = MilvusStore(str(folder / "milvus.db"), "", timeout_s=60)
        self.registry = Registry(str(folder / "milvus.registry.db"))
        self.retriever = Retriever(
            self.store, self.registry, Models(), chunk_tokens=40, rules=Rules()
        )

    async def close(self) -> None:
        await self.store.close()
        await self.registry.close()

    async def search(
        self, context: RequestContext, collection: str, query: SearchQuery
    ) -> list[Chunk]:
        return await self.retriever.search(collection, context.tenant, query, context.groups)

    async def whole(
        self, context: RequestContext, collection: str, max_tokens: int
    ) -> list[Chunk] | None:
        return await self.retriever.whole(collection, context.tenant, max_tokens, context.groups)

    async def nearness(
        self, context: RequestContext, collection: str, query: str, texts: Sequence[str]
    ) -> list[float]:
        return await self.retriever.nearness(collection, context.tenant, query, texts)

    async def ingest(
        self, context: RequestContext, collection: str, documents: list[Document]
    ) -> IngestReport:
        return await self.retriever.ingest(collection, context.tenant, documents, context.groups)

    async def documents(
        self,
        context: RequestContext,
        collection: str,
        after: str,
        limit: int,
        source: str | None = None,
    ) -> DocumentPage:
        return await self.retriever.documents(
            collection, context.tenant, after, limit, source, context.groups
        )

    async def document(
        self, context: RequestContext, collection: str, document_id: str
    ) -> StoredDocument:
        return await self.retriever.document(
            collection, context.tenant, document_id, context.groups
        )

    async def delete(self, context: RequestContext, collection: str, document_id: str) -> int:
        return await self.retriever.delete(collection, context.tenant, document_id, context.groups)

    async def delete_collection(self, context: RequestContext, collection: str) -> int:
        return await self.retriever.delete_collection(collection, context.tenant, context.groups)
