"""The steps of the knowledge road: find evidence, quote it or settle what a model made of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from langgraph.runtime import Runtime
from opentelemetry import trace

from serve_app.domain import (
    Chunk,
    Citation,
    FinishReason,
    Route,
    SearchQuery,
)
from serve_app.errors import NotFound, TriviumError
from serve_app.orchestration import evidence, quoting
from serve_app.orchestration.contracts import bounded, said, unanswered
from serve_app.orchestration.drafting import Drafted
from serve_app.orchestration.embedding import Embedding
from serve_app.orchestration.roles.assigned import Roles
from serve_app.orchestration.roles.reflecting import Finding
from serve_app.orchestration.roles.rewriting import Vain
from serve_app.orchestration.run import Knowledge, Run
from serve_app.orchestration.searching import in_turn, search_query
from serve_app.orchestration.state import State, known, reason
from serve_app.settings import RULE, OrchestrationSettings

NOT_FOUND = "The knowledge base does not say."
NO_EVIDENCE = "knowledge-no-evidence"

_SEARCHES = 2  # the second one is wider
_PARTS_FACTOR = 2  # times as many chunks, at most, for a question of several parts
_DROPPED = Finding("not stated")


class KnowledgeNodes:
    """Steps from a question to evidence, and from evidence to a cited answer.

    Args:
        whole_tokens: A knowledge base of at most so many tokens goes into a model's prompt whole.
        embedding: Pays for the embeddings of a search.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        roles: Roles,
        rules: OrchestrationSettings,
        *,
        top_k: int,
        whole_tokens: int = 0,
        embedding: Embedding = Embedding(),  # noqa: B008  # frozen
    ) -> None:
        self._knowledge = knowledge
        self._roles = roles
        self._rules = rules
        self._top_k = top_k
        self._embedding = embedding
        # Without a model there is no prompt to put it into.
        self._whole_tokens = 0 if roles.answer[0] == RULE else whole_tokens

    async def rewrite(self, state: State, runtime: Runtime[Run]) -> State:
        """Make the query stand alone, and its words of time a filter.

        A second time round, widen it, whatever its time.
        """
        run, turns = runtime.context, state["question"].messages
        vain = None
        if state["rewrites"]:
            vain = Vain(tuple(each.text for each in state["queries"]), state.get("missing", ""))
        written = await self._roles.rewrite(run, turns, vain)
        recent = state["decision"].volatile
        zone = self._rules.zone(run.context.tenant)
        asked = next(each.content for each in reversed(turns) if each.role == "user")
        made = [
            await search_query(
                text,
                # What the whole question says of time need not hold for each part of it.
                (text,) if written.parts else (asked, text),
                zone,
                self._top_k,
                recent=recent,
                wide=vain is not None,
            )
            for text in written.queries
        ]
        return {
            "query": replace(made[0], text=written.query),
            "queries": tuple(made),
            "rewrites": state["rewrites"] + 1,
            "decision": known(run, state),
        }

    async def retrieve(self, state: State, runtime: Runtime[Run]) -> State:
        """Take the whole base if it is small, else find chunks near the query."""
        context, collection = runtime.context.context, state["question"].collection
        try:
            # The same prompt for every question: the engine's prefix cache has read it already.
            if state["road"] is Route.KNOWLEDGE and self._whole_tokens:
                whole = await self._knowledge.whole(context, collection, self._whole_tokens)
                if whole:
                    return {"chunks": whole, "found": whole, "whole": True, "error": None}
            found = await self._searched(runtime.context, collection, state["queries"])
        except NotFound:
            # Nothing was ever ingested: that is an answer, not a failure.
            return {"chunks": [], "found": [], "error": None}
        except TriviumError as error:
            before = state.get("chunks", [])
            if state["road"] is Route.FRONTIER or before:
                # It goes on with what there is, and says so.
                runtime.context.degrade(reason("knowledge", error))
            return {"chunks": before, "error": None if before else error}
        # What an earlier search found may answer beside it.
        chunks = in_turn([found, state.get("chunks", [])])
        runtime.context.evidence = tuple(chunks)
        return {"chunks": chunks, "found": chunks or state.get("found", []), "error": None}

    async def grade(self, state: State, runtime: Runtime[Run]) -> State:
        """Keep the chunks that bear on the question."""
        chunks = state["chunks"]
        if chunks and self._roles.grade and not state.get("whole"):
            asked = state["query"].text
            chunks = (await self._roles.grade(runtime.context, asked, chunks)).kept(chunks)
        decision = known(runtime.context, state)
        if {each.id for each in chunks} <= state.get("read", frozenset()):
            # Whoever has read all of it in vain is not paid to do so again.
            return {"chunks": chunks, "decision": decision}
        readers = self._roles.readers(in_json=state["question"].in_json)
        return {"chunks": chunks, "readers": readers, "decision": decision}

    async def quote(self, state: State, runtime: Runtime[Run]) -> State:
        """Answer by what the evidence says nearest to the question, if it is near enough."""
        run, question, query = runtime.context, state["question"], state["query"].text
        try:
            quoted = await self._roles.quote(run, question.collection, query, state["chunks"])
        except TriviumError as error:
            return {"error": error}
        trace.get_current_span().set_attributes(
            {
                "trivium.quote.probability": quoted.probability,
                "trivium.quote.statements": len(quoted.statements),
            }
        )
        if not quoted.statements:
            return self._in_vain(state)
        text, citations = evidence.cite(quoting.parts(quoted.statements))
        text += self._dated(state, run, text, citations)
        return said(run, question, text, citations)

    async def reflect(self, state: State, runtime: Runtime[Run]) -> State:
        """Repair or drop what the sources contradict, and say what they do not state."""
        run = runtime.context
        if state["question"].in_json:
            return await self._checked_json(state, run)
        sources = evidence.Sources(state["chunks"])
        drafted = await self._settled(run, state["query"].text, state["drafted"], sources)
        trace.get_current_span().set_attribute("trivium.draft.sentences", len(drafted.shown))
        decision = known(run, state)
        if not drafted.shown:
            missing = drafted.missing
            return {**self._in_vain(state), "missing": missing, "decision": decision}
        text, citations = drafted.text, drafted.citations
        if drafted.missing and _only_denies(drafted.missing, state, sources):
            text += f" {drafted.missing}"
        text += self._dated(state, run, text, citations)
        kept, of_kept, why = bounded(state["question"], text, citations)
        # What has left already was within the caller's bounds: the engine kept them.
        left = state["drafted"].text
        if len(kept) < len(left):
            kept, of_kept = left, tuple(each for each in citations if each.end <= len(left))
        cut = state["finish_reason"] == "length" or (why == "length" and len(kept) < len(text))
        run.emit(kept[len(left) :])
        ended: FinishReason = "length" if cut else "stop"
        return {"text": kept, "citations": of_kept, "finish_reason": ended, "decision": decision}

    async def abstain(self, state: State, runtime: Runtime[Run]) -> State:
        """Nothing relevant was found: say so."""
        if error := state["error"]:
            # The frontier was to answer instead.
            runtime.context.degrade(reason(state["road"].value, error))
        return unanswered(runtime.context, state["question"], NOT_FOUND)

    async def escalate(self, state: State, runtime: Runtime[Run]) -> State:
        """Nothing relevant was found: let the frontier see what there was, and say so."""
        runtime.context.degrade(NO_EVIDENCE)
        return {"road": Route.FRONTIER, "chunks": state["found"], "escalated": True}

    def after_grade(self, state: State) -> str:
        """Evidence: answer from it. None: search once more, more widely."""
        if state["road"] is Route.FRONTIER:
            return "frontier"
        return _reader(state) if state["chunks"] and state["readers"] else self._next(state)

    def after_answer(self, state: State) -> str:
        """A draft is looked at before it is the answer; without one the next reader is asked."""
        if state["error"]:
            return _reader(state) if state["readers"] else "detour"
        return "end" if "text" in state else "reflect"

    def after_reading(self, state: State) -> str:
        """An answer is the end. None is as good as no evidence, unless a reader failed."""
        if "text" in state:
            return "end"
        if state["error"]:
            return "detour"
        return self._next(state)

    def _next(self, state: State) -> str:
        """What is done where the evidence does not answer: search again, let another read it, or
        go on without."""
        if self._may_search_again(state):
            return "rewrite"
        if state["chunks"] and state["readers"]:
            return _reader(state)
        if state["decision"].stage == "fallback":
            return "expert"
        barred = Route.FRONTIER in state["decision"].barred
        return "abstain" if barred or self._rules.without_evidence == "say so" else "escalate"

    def _may_search_again(self, state: State) -> bool:
        """Whether another search may find more. What a model has read is not looked for in the same
        way again: only without the bounds of time, or by a query that a model words anew."""
        if state["rewrites"] >= _SEARCHES or state.get("whole"):
            return False
        narrowed = any(each.since is not None for each in state["queries"])
        return "read" not in state or narrowed or bool(self._roles.rewrite.models)

    def _in_vain(self, state: State) -> State:
        """The reader whose turn it is has found no answer."""
        reader, *left = state["readers"]
        if reader == RULE:
            return {"readers": tuple(left)}
        read = state.get("read", frozenset()) | {each.id for each in state["chunks"]}
        return {"readers": tuple(left), "read": read}

    async def _searched(
        self, run: Run, collection: str, queries: Sequence[SearchQuery]
    ) -> list[Chunk]:
        """What the queries find together; what one of several could not is said.

        Raises:
            TriviumError: All of them failed.
        """
        async with self._embedding.paid(run, [each.text for each in queries]):
            found = await asyncio.gather(
                *(self._knowledge.search(run.context, collection, each) for each in queries),
                return_exceptions=True,
            )
        lists = [each for each in found if not isinstance(each, BaseException)]
        failed = [each for each in found if isinstance(each, BaseException)]
        for error in failed:
            if not lists or not isinstance(error, TriviumError):
                raise error
            run.degrade(reason("knowledge", error))
        return in_turn(lists)[: queries[0].k * min(len(lists), _PARTS_FACTOR)]

    async def _checked_json(self, state: State, run: Run) -> State:
        draft = state["draft"]
        citations = await asyncio.to_thread(evidence.of_json, draft, state["chunks"])
        if citations is None:
            return self._in_vain(state)
        run.emit(draft)
        return {"text": draft, "citations": citations}

    async def _settled(
        self, run: Run, asked: str, drafted: Drafted, sources: evidence.Sources
    ) -> Drafted:
        """The draft, with what was contradicted repaired once, or dropped."""
        broken = drafted.contradicted
        if not broken:
            return drafted
        assert self._roles.reflect is not None
        claims = await self._roles.repair(run, asked, broken, sources)
        written = [each for each in claims if each.text]
        found = await self._roles.reflect(run, asked, written, sources) if written else []
        findings = iter(found)
        return drafted.settled(
            [(each, next(findings) if each.text else _DROPPED) for each in claims]
        )

    def _dated(self, state: State, run: Run, text: str, citations: Sequence[Citation]) -> str:
        if not state["decision"].volatile:
            return ""
        return evidence.dated(text, citations, self._rules.zone(run.context.tenant))


def after_retrieve(state: State) -> str:
    """Reasoning goes on without evidence when there is no way to get it; facts cannot."""
    if state["error"] is None:
        return "grade"
    return "frontier" if state["road"] is Route.FRONTIER else "detour"


def _reader(state: State) -> str:
    """The step of whoever answers next."""
    return "quote" if state["readers"][0] == RULE else "answer"


def _only_denies(missing: str, state: State, sources: evidence.Sources) -> bool:
    """Whether a sentence that is to say what is missing says that something is not so, and holds no
    figure of its own."""
    known = sources.numbers | evidence.figures_of(state["question"].messages[-1].content)
    return evidence.denies(missing) and evidence.figures_of(missing) <= known
