"""The steps of the knowledge road: find evidence, quote it or check what a model made of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from langgraph.runtime import Runtime
from opentelemetry import trace

from serve_app.domain import (
    Chunk,
    Delta,
    Generation,
    Message,
    ModelCall,
    Route,
    SearchQuery,
    Usage,
    estimated_tokens,
)
from serve_app.errors import NotFound, TriviumError
from serve_app.orchestration import evidence, quoting, timespans
from serve_app.orchestration.contracts import said, unanswered
from serve_app.orchestration.run import Knowledge, Run
from serve_app.orchestration.state import State, reason
from serve_app.settings import OrchestrationSettings

NOT_FOUND = "The knowledge base does not say."
NO_EVIDENCE = "knowledge-no-evidence"

_SEARCHES = 2  # the second one is wider
_CANDIDATES = 64  # statements that are compared with a question, at most


class KnowledgeNodes:
    """Steps from a question to evidence, and from evidence to a cited answer.

    Args:
        min_relevance: Least probability that a chunk answers the question.
        whole_tokens: A knowledge base of at most so many tokens goes into a model's prompt whole.
        embeds: The embedding model's name in the price table; none costs nothing.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        rules: OrchestrationSettings,
        *,
        top_k: int,
        min_relevance: float,
        whole_tokens: int = 0,
        embeds: str | None = None,
    ) -> None:
        self._knowledge = knowledge
        self._rules = rules
        self._top_k = top_k
        self._min_relevance = min_relevance
        self._embeds = embeds
        # Without a model there is no prompt to put it into.
        self._whole_tokens = whole_tokens if rules.answers == "model" else 0

    async def rewrite(self, state: State, runtime: Runtime[Run]) -> State:
        """Make the query stand alone, and its words of time a filter.

        A second time round, widen it: the whole conversation, whatever its time.
        """
        turns = [m.content for m in state["question"].messages if m.role == "user"]
        short = len(turns[-1].split()) < 4
        again = state["rewrites"] > 0
        take = len(turns) if again else 2 if short else 1
        query = SearchQuery(
            "\n".join(turns[-take:]), self._top_k, recent=state["decision"].volatile
        )
        zone = self._rules.zone(runtime.context.context.tenant)
        span = await asyncio.to_thread(timespans.find, turns[-1], datetime.now(UTC), zone)
        # What does not change is as true today as on the day it was written.
        if span and query.recent and not again:
            query = replace(query, since=span.start.timestamp(), until=_closed(span.end))
        return {"query": query, "rewrites": state["rewrites"] + 1}

    async def retrieve(self, state: State, runtime: Runtime[Run]) -> State:
        """Take the whole base if it is small, else find chunks near the query."""
        context, collection = runtime.context.context, state["question"].collection
        try:
            # The same prompt for every question: the engine's prefix cache has read it already.
            if state["road"] is Route.KNOWLEDGE and self._whole_tokens:
                whole = await self._knowledge.whole(context, collection, self._whole_tokens)
                if whole:
                    return {"chunks": whole, "found": whole, "whole": True, "error": None}
            async with self._embedding(runtime.context, [state["query"].text]):
                chunks = await self._knowledge.search(context, collection, state["query"])
        except NotFound:
            # Nothing was ever ingested: that is an answer, not a failure.
            return {"chunks": [], "found": [], "error": None}
        except TriviumError as error:
            if state["road"] is Route.FRONTIER:
                # It goes on without evidence, and says so.
                runtime.context.degraded.append(reason("knowledge", error))
            return {"chunks": [], "error": error}
        runtime.context.evidence = tuple(chunks)
        return {"chunks": chunks, "found": chunks or state.get("found", []), "error": None}

    async def grade(self, state: State, runtime: Runtime[Run]) -> State:
        """Keep the chunks that bear on the question."""
        if state.get("whole") or not self._rules.grade:
            return {}
        return {"chunks": evidence.relevant(state["chunks"], self._min_relevance)}

    async def quote(self, state: State, runtime: Runtime[Run]) -> State:
        """Answer by what the evidence says nearest to the question, if it is near enough."""
        run, question, query = runtime.context, state["question"], state["query"].text
        stated = await asyncio.to_thread(quoting.statements, query, state["chunks"], _CANDIDATES)
        try:
            texts = [each.in_context for each in stated]
            async with self._embedding(run, [query, *texts]):
                cosines = await self._knowledge.nearness(
                    run.context, question.collection, query, texts
                )
        except TriviumError as error:
            return {"error": error}
        chosen = quoting.choose(query, stated, cosines, self._rules.min_quote)
        likely = quoting.probability(max(cosines, default=0.0))
        trace.get_current_span().set_attributes(
            {"trivium.quote.probability": likely, "trivium.quote.statements": len(chosen)}
        )
        if not chosen:
            return {"chunks": []}
        return self._cited(state, run, quoting.parts(chosen))

    async def verify(self, state: State, runtime: Runtime[Run]) -> State:
        """Keep the sentences of a draft that a chunk supports, and cite it. JSON is kept whole."""
        run, question, draft = runtime.context, state["question"], state["draft"]
        if question.in_json:
            citations = await asyncio.to_thread(evidence.of_json, draft, state["chunks"])
            if citations is None:
                return {"chunks": []}
            run.emit(draft)
            return {"text": draft, "citations": citations}
        parts = await asyncio.to_thread(evidence.supported, draft, state["chunks"])
        if not parts:
            return {}
        cut = state["finish_reason"]
        done = self._cited(state, run, parts)
        return {**done, "finish_reason": cut if cut == "length" else done["finish_reason"]}

    async def abstain(self, state: State, runtime: Runtime[Run]) -> State:
        """Nothing relevant was found: say so."""
        if error := state["error"]:
            # The frontier was to answer instead.
            runtime.context.degraded.append(reason(state["road"].value, error))
        return unanswered(runtime.context, state["question"], NOT_FOUND)

    async def escalate(self, state: State, runtime: Runtime[Run]) -> State:
        """Nothing relevant was found: let the frontier see what there was, and say so."""
        runtime.context.degraded.append(NO_EVIDENCE)
        return {"road": Route.FRONTIER, "chunks": state["found"], "escalated": True}

    def after_grade(self, state: State) -> str:
        """Evidence: answer from it. None: search once more, more widely."""
        if state["road"] is Route.FRONTIER:
            return "frontier"
        if not state["chunks"]:
            return self._without_evidence(state)
        # JSON is filled by a model, from the evidence: no quotation is JSON.
        by_model = self._rules.answers == "model" or state["question"].in_json
        return "answer" if by_model else "quote"

    def after_verify(self, state: State) -> str:
        """Of a draft without one supported sentence nothing is shown."""
        if "text" in state:
            return "end"
        return self._without_evidence(state) if state["question"].in_json else "quote"

    def after_quote(self, state: State) -> str:
        """A quote is the end; none near enough is as good as no evidence."""
        if state["error"]:
            return "detour"
        return "end" if "text" in state else self._without_evidence(state)

    @asynccontextmanager
    async def _embedding(self, run: Run, texts: Sequence[str]) -> AsyncIterator[None]:
        """Around what embeds texts. It takes time of a machine of our own, so it has its price."""
        if self._embeds is None:
            yield
            return
        asked = Generation(tuple(Message("user", text) for text in texts), max_tokens=0)
        async with run.purse.paying([self._embeds], "embed", asked) as bill:
            yield
            bill.note(Delta(usage=Usage(estimated_tokens(texts))))
        run.beside.append(ModelCall(self._embeds, "embed", bill.usage))

    def _without_evidence(self, state: State) -> str:
        # A model has read what the first search found: it is not paid to do so again.
        if state["rewrites"] < _SEARCHES and "draft" not in state:
            return "rewrite"
        if state["decision"].stage == "fallback":
            return "expert"
        barred = Route.FRONTIER in state["decision"].barred
        return "abstain" if barred or self._rules.without_evidence == "say so" else "escalate"

    def _cited(self, state: State, run: Run, parts: Sequence[tuple[str, Chunk]]) -> State:
        text, citations = evidence.cite(parts)
        if state["decision"].volatile:
            text += evidence.dated(text, citations, self._rules.zone(run.context.tenant))
        return said(run, state["question"], text, citations)


def after_retrieve(state: State) -> str:
    """Reasoning goes on without evidence when there is no way to get it; facts cannot."""
    if state["error"] is None:
        return "grade"
    return "frontier" if state["road"] is Route.FRONTIER else "detour"


def after_answer(state: State) -> str:
    """A draft is checked before it is shown."""
    if state["error"]:
        return "detour"
    return "verify" if "draft" in state else "end"


def _closed(end: datetime) -> float:
    """What is written while the question is under way is still in a span that ends now."""
    now = datetime.now(UTC)
    return (
        end + timedelta(minutes=1) if abs(now - end) < timedelta(minutes=1) else end
    ).timestamp()
