"""The collaborators of the graph, at the other end of Serve handles."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextvars import Context
from dataclasses import replace

from serve_app.domain import (
    Chunk,
    Decision,
    Delta,
    Document,
    Generation,
    Message,
    RequestContext,
    SearchQuery,
)
from serve_app.errors import TriviumError
from serve_app.handles import Remote, Together
from serve_app.orchestration.run import Purse
from serve_app.pins import Pin, matched, said
from serve_app.retrieval.index import DocumentPage, IngestReport, StoredDocument
from serve_app.router.classifier import question
from serve_app.router.turns import Turns, of_user, turns

log = logging.getLogger(__name__)

_FRESH_S = 2.0  # a pin that is new may be overlooked for so long
_RENEW_S = 1.0  # from then on one question is on its way, while callers go on with what is known


class KnownPins:
    """The pins of each tenant, as the policy was at most two seconds ago.

    Under steady traffic nobody waits for them: they are asked for anew before they are too old.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._known: dict[str, tuple[float, tuple[Pin, ...]]] = {}  # by tenant: when, and which
        self._renewing: dict[str, asyncio.Task[None]] = {}

    async def of(self, context: RequestContext) -> tuple[Pin, ...]:
        """Those that may hold for the tenant of a request.

        Raises:
            TriviumError: What is known is too old, and the router could not be asked in time.
        """
        now = time.monotonic()
        asked, pins = self._known.get(context.tenant, (-math.inf, ()))
        if now - asked > _FRESH_S:
            return await self._ask(context)
        if now - asked > _RENEW_S and context.tenant not in self._renewing:
            # For all requests: Serve may not end it when the client of this one leaves.
            task = asyncio.create_task(self._renew(context), context=Context())
            self._renewing[context.tenant] = task
        return pins

    async def _ask(self, context: RequestContext) -> tuple[Pin, ...]:
        asked = time.monotonic()
        pins: tuple[Pin, ...] = await self._remote.call("pins", context)
        # An older question whose answer was long on its way must not hide a newer one's.
        if asked > self._known.get(context.tenant, (-math.inf, ()))[0]:
            self._known[context.tenant] = (asked, pins)
        return pins

    async def _renew(self, context: RequestContext) -> None:
        try:
            await self._ask(context)
        except TriviumError as error:
            log.info("the pins of a tenant were not renewed: %s", error)
        finally:
            del self._renewing[context.tenant]


class RemoteRouter:
    """Stage 1 for queries that travel together; stage 2, and the intents of many turns, for each
    one alone, as they take long.

    Args:
        model: Which stage 2 asks.
        collection: Where an answer would be looked up, where nobody names another.
    """

    def __init__(
        self, remote: Remote, replicas: int, batch: int, model: str, collection: str
    ) -> None:
        self._remote = remote
        self._first = Together(remote, "decide", lanes=replicas, items=batch)
        self._model = model
        self._collection = collection
        self._pins = KnownPins(remote)

    async def decide(
        self,
        context: RequestContext,
        messages: Sequence[Message],
        purse: Purse | None,
        collection: str = "",
    ) -> Decision:
        # Cut to what the router reads before it is sent. Pins are about all of it.
        asked = replace(turns(messages), collection=collection or self._collection)
        if pins := await self._pins.of(context):
            all_turns = of_user(messages) if any(pin.intents for pin in pins) else ()
            found = await matched(pins, said(messages))
            # One turn alone is what the router reads anyway.
            asked = replace(asked, said=all_turns if len(all_turns) > 1 else (), matched=found)
        decision: Decision
        if asked.said:
            # Alone, as it takes longer with each turn: others would wait for it.
            ((decision, unsure),) = await self._remote.call("decide", context, [(context, asked)])
        else:
            decision, unsure = await self._first.call(context, asked)
        if not unsure or purse is None:
            return decision
        try:
            async with purse.paying([self._model], "route", question(asked)) as bill:
                decision = await self._again(context, asked, decision)
                bill.note(Delta(usage=decision.usage))
        except TriviumError as error:
            # Nothing is left to pay for a second opinion, or nobody gives it: the first one holds.
            log.info("stage 2 did not help: %s", error)
        return decision

    async def may_bar(self, context: RequestContext) -> bool:
        return bool(await self._pins.of(context))

    async def _again(self, context: RequestContext, asked: Turns, first: Decision) -> Decision:
        decision: Decision = await self._remote.call("decide_again", context, asked, first)
        return decision


class RemoteModel:
    """The expert, or the frontier's proxy. Replicas that have an adapter loaded are preferred."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def generate(self, context: RequestContext, generation: Generation) -> AsyncGenerator[Delta]:
        adapter = str(generation.adapter) if generation.adapter else ""
        return self._remote.stream("generate", context, generation, replica_with=adapter)


class RemoteKnowledge:
    """Search for the graph; everything else for the documents' own endpoints."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    async def search(
        self, context: RequestContext, collection: str, query: SearchQuery
    ) -> list[Chunk]:
        chunks: list[Chunk] = await self._remote.call("search", context, collection, query)
        return chunks

    async def whole(
        self, context: RequestContext, collection: str, max_tokens: int
    ) -> list[Chunk] | None:
        chunks: list[Chunk] | None = await self._remote.call(
            "whole", context, collection, max_tokens
        )
        return chunks

    async def nearness(
        self, context: RequestContext, collection: str, query: str, texts: Sequence[str]
    ) -> list[float]:
        cosines: list[float] = await self._remote.call(
            "nearness", context, collection, query, texts
        )
        return cosines

    async def ingest(
        self, context: RequestContext, collection: str, documents: list[Document]
    ) -> IngestReport:
        report: IngestReport = await self._remote.call("ingest", context, collection, documents)
        return report

    async def documents(
        self,
        context: RequestContext,
        collection: str,
        after: str,
        limit: int,
        source: str | None = None,
    ) -> DocumentPage:
        found: DocumentPage = await self._remote.call(
            "documents", context, collection, after, limit, source
        )
        return found

    async def document(
        self, context: RequestContext, collection: str, document_id: str
    ) -> StoredDocument:
        found: StoredDocument = await self._remote.call(
            "document", context, collection, document_id
        )
        return found

    async def delete(self, context: RequestContext, collection: str, document_id: str) -> int:
        """How many chunks it had."""
        chunks: int = await self._remote.call("delete", context, collection, document_id)
        return chunks

    async def delete_collection(self, context: RequestContext, collection: str) -> int:
        removed: int = await self._remote.call("delete_collection", context, collection)
        return removed
