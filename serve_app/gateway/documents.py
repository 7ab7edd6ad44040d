"""`/v1/collections/…`: documents in, out and away, and the search among them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from serve_app.domain import estimated_tokens
from serve_app.gateway import openapi, responses
from serve_app.gateway.callers import Caller
from serve_app.gateway.metering import Metering
from serve_app.gateway.openapi import ok
from serve_app.gateway.roads import RemoteKnowledge
from serve_app.gateway.schema import IngestRequest, SearchRequest
from serve_app.gateway.wire import unless_empty

Collection = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


def routes(knowledge: RemoteKnowledge, metering: Metering) -> APIRouter:
    """The endpoints over one knowledge base. Callers reach what is their tenant's alone."""
    router = APIRouter(prefix="/v1/collections/{collection}")

    @router.put("/documents", responses=ok(openapi.Ingested, "What was done."))
    async def ingest(
        collection: Collection, body: IngestRequest, request: Request, caller: Caller
    ) -> dict[str, Any]:
        """Add documents, or replace those with the same id. Searchable when this returns."""
        given = [document.document() for document in body.documents]
        texts = [f"{each.title} {each.text}" for each in given]
        async with (
            metering.visit(request, caller, "ingest") as visit,
            visit.embedding(texts) as embedding,
        ):
            report = await knowledge.ingest(visit.context, collection, given)
            embedding.read(report.embedded_tokens)
        return {
            "object": "ingest.report",
            "collection": collection,
            **dataclasses.asdict(report),
        }

    @router.get("/documents", responses=ok(openapi.Documents, "A page of documents."))
    async def documents(
        collection: Collection,
        request: Request,
        caller: Caller,
        limit: Annotated[int, unless_empty(100), Query(ge=1, le=1000)] = 100,
        after: Annotated[str, Query(max_length=200)] = "",
        source: Annotated[str | None, Query(max_length=2048)] = None,
    ) -> dict[str, Any]:
        """A page of documents, ordered by id. `after` is the `last_id` of the page before; with
        `source`, of those alone that were put with it.
        """
        async with metering.visit(request, caller, "chat", "ingest") as visit:
            page = await knowledge.documents(visit.context, collection, after, limit, source)
        found = page.documents
        return {
            "object": "list",
            "data": found,
            "first_id": found[0]["id"] if found else None,
            "last_id": found[-1]["id"] if found else None,
            "has_more": page.has_more,
        }

    @router.get(
        "/documents/{document_id:rest}", responses=ok(openapi.StoredDocument, "The document.")
    )
    async def document(
        collection: Collection, document_id: str, request: Request, caller: Caller
    ) -> dict[str, Any]:
        """A document as it was put, and its chunks: what a citation points to.

        Of one that was read from a file, `url` says where that is, and `text` is null.
        """
        async with metering.visit(request, caller, "chat") as visit:
            found = await knowledge.document(visit.context, collection, document_id)
        put, first = found.original, found.chunks[0]
        return {
            "object": "document",
            "id": document_id,
            "title": put.title if put else first.title,
            "as_of": first.as_of,
            "text": put.text if put else None,
            "metadata": put.metadata if put else None,
            "source": found.source or None,
            "url": found.url or None,
            "chunks": [
                {"id": chunk.id, "heading": chunk.heading, "text": chunk.text}
                for chunk in found.chunks
            ],
        }

    @router.delete(
        "/documents/{document_id:rest}", responses=ok(openapi.DeletedDocument, "It is gone.")
    )
    async def delete(
        collection: Collection, document_id: str, request: Request, caller: Caller
    ) -> dict[str, Any]:
        async with metering.visit(request, caller, "ingest") as visit:
            chunks = await knowledge.delete(visit.context, collection, document_id)
        return {"object": "document", "id": document_id, "deleted": True, "chunks": chunks}

    @router.delete("", responses=ok(openapi.DeletedCollection, "It is gone."))
    async def delete_collection(
        collection: Collection, request: Request, caller: Caller
    ) -> dict[str, Any]:
        """Remove all of the tenant's documents. The collection itself goes with them if the tenant
        made it and no other tenant has documents in it."""
        async with metering.visit(request, caller, "ingest") as visit:
            removed = await knowledge.delete_collection(visit.context, collection)
        return {"object": "collection", "id": collection, "deleted": True, "documents": removed}

    @router.post("/search", responses=ok(openapi.Hits, "The chunks."))
    async def search(
        collection: Collection, body: SearchRequest, request: Request, caller: Caller
    ) -> dict[str, Any]:
        """The chunks nearest to a query, best first."""
        async with (
            metering.visit(request, caller, "chat") as visit,
            visit.embedding([body.query]) as embedding,
        ):
            found = await knowledge.search(visit.context, collection, body.search())
            embedding.read(estimated_tokens([body.query]))
        return {
            "object": "list",
            "data": [responses.chunk(each, collection) for each in found],
        }

    return router
