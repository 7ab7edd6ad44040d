"""The steps of the roads. Each takes the state, does one thing, and returns what it changed.

Those that find evidence and answer from it by rule are in `knowledge`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from langgraph.runtime import Runtime

from serve_app.domain import (
    Chunk,
    Citation,
    FinishReason,
    Generation,
    Release,
    Route,
)
from serve_app.errors import (
    BudgetExceeded,
    InvalidRequest,
    KnowledgeUnavailable,
    RoadBarred,
    TriviumError,
    Unavailable,
)
from serve_app.orchestration import detours, evidence
from serve_app.orchestration.adapters import NoAdapters, Through, chosen
from serve_app.orchestration.calling import Calls
from serve_app.orchestration.contracts import unanswered
from serve_app.orchestration.deciding import Decider, barred
from serve_app.orchestration.doubt import LOGPROBS, Doubt, InDoubt, overruled
from serve_app.orchestration.drafting import Check, Drafting
from serve_app.orchestration.messages import instructed
from serve_app.orchestration.prompts import SHIPPED, Prompt
from serve_app.orchestration.reply import Reply, send
from serve_app.orchestration.roles.assigned import Roles
from serve_app.orchestration.roles.claims import Claim
from serve_app.orchestration.roles.reflecting import Finding
from serve_app.orchestration.run import Adapters, Bill, Model, Question, Router, Run
from serve_app.orchestration.state import State, known, reason
from serve_app.settings import DoubtSettings
from serve_app.telemetry import tracing

BOUND = "max_completion_tokens"
EFFORT = "reasoning_effort"


class Nodes:
    """The steps that decide, let a model answer, or take another road.

    Args:
        models: Names in the price table (the first one is asked, the others may answer in its
            place) and bound on the answer's tokens where the caller sets none, of expert and
            frontier.
        most: Of a road, the most tokens that a caller may ask for; else as in `models`.
        roles: Of the knowledge road.
        refuse: What does not fit into a limit is refused, rather than answered by another road.
        say_so: That facts cannot be looked up is said in an answer, rather than as an error.
        hedge_after_s: As `Calls` takes it, for the frontier.
        prompts: Of each kind of call, by name.
        doubt: When an answer of the expert is left to the frontier; `None`: never.
    """

    def __init__(
        self,
        router: Router,
        expert: Model,
        frontier: Model,
        *,
        models: Mapping[Route, tuple[Sequence[str], int]],
        fallbacks: detours.Fallbacks,
        most: Mapping[Route, int] | None = None,
        roles: Roles,
        refuse: bool = False,
        say_so: bool = False,
        hedge_after_s: float | None = None,
        doubt: DoubtSettings | None = None,
        prompts: Mapping[str, Prompt] = SHIPPED,
        adapters: Adapters | None = None,
    ) -> None:
        self._decider = Decider(router, models[Route.EXPERT][0][0])
        self._expert = expert
        self._frontier = frontier
        self._models = models
        self._fallbacks = fallbacks
        self._roles = roles
        self._refuse = refuse
        self._say_so = say_so
        self._most = most or {}
        self._hedge_after_s = hedge_after_s
        self._doubt = doubt
        self._prompts = prompts
        self._adapters = adapters or NoAdapters()

    async def decide(self, state: State, runtime: Runtime[Run]) -> State:
        """Choose the road: the one that the question must take, or the router's.

        Raises:
            RoadBarred: The one that it must take is.
            TriviumError: It is the frontier, and the router cannot be asked whether it is barred.
        """
        run, question = runtime.context, state["question"]
        run.adapted.update(dict.fromkeys(question.adapted))
        run.decision = decision = await self._decider.decide(run, question)
        if question.named and question.named in decision.barred:
            raise barred(question.named, question)
        return {
            "decision": decision,
            "road": decision.route,
            "tried": (),
            "rewrites": 0,
            "adapter": question.adapter or chosen(decision, self._adapters),
            "error": None,
        }

    async def expert(self, state: State, runtime: Runtime[Run]) -> State:
        """Answer by the small model, streaming; through an adapter as its contract says."""
        run, adapter = runtime.context, state["adapter"]
        if adapter is None:
            try:
                return await self._answer(
                    state, run, Route.EXPERT, self._prompts["expert"], doubt=self._doubted(state)
                )
            except InDoubt as doubt:
                return {"doubt": doubt.mean, "error": None}
        through = Through.of(
            adapter, state["question"], state.get("held", ""), state.get("violations", [])
        )
        done = await self._answer(
            state, run, Route.EXPERT, self._prompts["adapter"], hold=through.held, through=through
        )
        if isinstance(done["error"], InvalidRequest) and through.violations:
            # It was we who asked for a repair: the caller's request was not at fault.
            return {"error": through.broken(through.violations)}
        if done["error"] is None and not through.held:
            _note(run, through, done["text"], done["finish_reason"])
        if "draft" in done:
            return {"held": done["draft"], "finish_reason": done["finish_reason"], "error": None}
        return done

    def _doubted(self, state: State) -> Doubt | None:
        """What looks at the expert's answer, where the frontier may answer instead."""
        decision, question = state["decision"], state["question"]
        may = (
            decision.route is Route.EXPERT
            and question.named is None
            and not question.in_json
            and Route.FRONTIER in self._fallbacks.get(Route.EXPERT, ())
            and Route.FRONTIER not in decision.barred
            and self._models[Route.FRONTIER][0]
        )
        return Doubt(self._doubt) if self._doubt and may else None

    async def overrule(self, state: State, runtime: Runtime[Run]) -> State:
        """Let the frontier answer what the expert doubted. If it cannot, the expert does."""
        assert self._doubt is not None
        decision = overruled(state["decision"], self._doubt, state["doubt"])
        runtime.context.decision = decision
        return {"decision": decision, "road": Route.FRONTIER}

    async def conform(self, state: State, runtime: Runtime[Run]) -> State:
        """Check an answer that was held back. One repair is tried, then another road."""
        run, adapter, text = runtime.context, state["adapter"], state["held"]
        assert adapter is not None
        assert adapter.contract is not None
        through = Through.of(adapter, state["question"], text, state.get("violations", []))
        outcome = through.outcome(text, state["finish_reason"])
        violations = adapter.contract.violations(text) if outcome == "broken" else []
        if violations and not through.violations:
            return {"violations": violations}
        _note(run, through, text, state["finish_reason"])
        if violations:
            return {"error": through.broken(violations)}
        run.emit(text)
        return {"text": text, "citations": (), "violations": []}

    async def frontier(self, state: State, runtime: Runtime[Run]) -> State:
        """Answer by the outside model, streaming, with evidence when there is any."""
        sources = state.get("chunks", [])
        return await self._answer(
            state, runtime.context, Route.FRONTIER, self._prompts["frontier"], sources
        )

    async def answer(self, state: State, runtime: Runtime[Run]) -> State:
        """Draft an answer from the evidence, by the model that is to read it.

        What it says is shown sentence by sentence, as each is found supported. JSON is held back,
        as it is right or wrong as a whole.
        """
        run, question, chunks = runtime.context, state["question"], state["chunks"]
        road = Route(state["readers"][0])
        if road is Route.FRONTIER and road in known(run, state).barred:
            return self._unread(state, run, barred(road, question))
        draft = partial(self._answer, state, run, road, self._prompts["answer"], chunks)
        if question.in_json:
            done = await draft(hold=self._roles.reflect is not None)
        else:
            check = self._check(run, state["query"].text, chunks)
            show = run.emit if run.streaming else None
            async with Drafting(check, len(chunks), show) as drafting:
                done = await draft(hold=True, drafting=drafting)
                if done["error"] is None:
                    done["drafted"] = await drafting.close()
        return done if done["error"] is None else self._unread(state, run, done["error"])

    @staticmethod
    def _unread(state: State, run: Run, error: TriviumError) -> State:
        """A reader has failed: the next one reads, if there is one."""
        reader, *left = state["readers"]
        decision = known(run, state)
        if left:
            run.degrade(reason(f"answer-{reader}", error))
        if isinstance(error, RoadBarred):
            # The pin has met the evidence. It bars that model, and not the road it reads for.
            decision = replace(decision, barred=tuple({*decision.barred, Route(reader)}))
            run.decision = decision
            error = Unavailable("a pin keeps the evidence from the model that was to read it")
        return {"decision": decision, "readers": tuple(left), "error": error}

    def _check(self, run: Run, asked: str, chunks: list[Chunk]) -> Check:
        """What is said of sentences; where nobody reflects, that they are supported."""
        sources, reflect = evidence.Sources(chunks), self._roles.reflect

        async def check(claims: Sequence[Claim]) -> Sequence[Finding]:
            if reflect:
                return await reflect(run, asked, claims, sources)
            return [Finding("supported", sources.supporter(each.text)) for each in claims]

        return check

    async def detour(self, state: State, runtime: Runtime[Run]) -> State:
        """A road failed before its first byte: take the next one, and say why.

        A pin may have met what only the call carried, such as evidence: it holds from then on. An
        answer in the wrong form is better than none: with no road left it is sent after all.

        Raises:
            RoadBarred: A pin keeps the question from the road that it must take.
            TriviumError: The first road's error, when no road is left.
        """
        run, question, failed = runtime.context, state["question"], state["road"]
        error = state["error"] or Unavailable("the road failed")
        if not detours.may_go_on(error, question, failed):
            raise error
        decision, first = state["decision"], state.get("first_error", error)
        if isinstance(error, RoadBarred):
            if failed is question.named:
                raise barred(failed, question) from error
            decision = replace(decision, barred=tuple({*decision.barred, failed}))
            run.decision = decision
        elif isinstance(first, RoadBarred):
            # That a road was closed explains nothing where another one was open, and failed.
            first = error
        run.degrade(reason(failed.value, error))
        tried = (*state["tried"], failed)
        facts = await self._decider.needs_facts(run, decision, question)
        others = {} if question.only_frontier else self._fallbacks
        if road := detours.next_road(others, decision, tried, facts=facts):
            return {
                "decision": decision,
                "road": road,
                "tried": tried,
                "rewrites": 0,
                "error": error,
                "first_error": first,
            }
        if "held" in state:
            run.emit(state["held"])
            return {"text": state["held"], "citations": (), "finish_reason": "stop", "error": None}
        told = detours.given_up(state, first, facts=facts)
        if isinstance(told, KnowledgeUnavailable) and self._say_so:
            return unanswered(run, question, detours.NOT_NOW)
        raise told

    def _wishes(self, run: Run, road: Route, question: Question) -> dict[str, Any]:
        """What the caller set, as a road takes it."""
        wishes = dict(question.options)
        if road is Route.EXPERT and wishes.pop(EFFORT, None):
            run.adapted[EFFORT] = None  # it answers at once
        return wishes

    def _bound(self, run: Run, road: Route, wanted: int) -> int:
        """How many tokens an answer may have. A bound of the caller's above ours is said."""
        most = self._most.get(road, self._models[road][1])
        if wanted > most:
            run.adapted[BOUND] = None
        return min(wanted, most)

    async def _answer(
        self,
        state: State,
        run: Run,
        road: Route,
        instructions: Prompt,
        sources: list[Chunk] | None = None,
        *,
        hold: bool = False,
        through: Through | None = None,
        doubt: Doubt | None = None,
        drafting: Drafting | None = None,
    ) -> State:
        model = self._expert if road is Route.EXPERT else self._frontier
        names, usual = self._models[road]
        question, release = state["question"], through.adapter.release if through else None
        asked = instructed(
            question.messages,
            instructions,
            sources or (),
            first=state.get("whole", False),
            tools="tools" in question.options,
            json=question.in_json,
            sources_as=self._prompts["sources"],
        )
        generation = Generation(
            messages=(*asked, *(through.turns if through else ())),
            max_tokens=self._bound(run, road, question.max_tokens or usual),
            options={
                **instructions.options,
                **self._wishes(run, road, question),
                **(through.options if through else {}),
                **(LOGPROBS if doubt else {}),
            },
            adapter=release,
            intended=state["decision"].intended,
        )
        before, run.model = run.model, _named(names[0], release) if names else run.model
        purpose = "repair" if through and through.violations else instructions.name
        reply = Reply()
        bill: Bill | None = None
        calls = Calls(run, model, purpose, self._hedge_after_s if road is Route.FRONTIER else None)
        with tracing.span(f"prompt {instructions.name}", instructions.attributes):
            try:
                async with aclosing(calls.steps(names, generation)) as steps:
                    async for bill, delta in steps:
                        run.model = _named(bill.model, release)
                        run.adapted.update(dict.fromkeys(delta.adapted))
                        reply.take(delta)
                        if bill.overdrawn:
                            reply.finish_reason = "length"
                        if drafting:
                            drafting.take(delta.text)
                        for each in doubt.take(delta) if doubt else (delta,):
                            send(run, each, hold=hold)
                for each in doubt.rest() if doubt else ():
                    send(run, each, hold=hold)
            except TriviumError as error:
                # What the expert doubts it may still answer.
                over = isinstance(error, BudgetExceeded) and "doubt" not in state
                if run.started or (self._refuse and over):
                    raise
                run.model = before
                return {"error": error}
            finally:
                # Also when the client has left in the middle: those tokens were paid for.
                calls.note(bill, generation)
        done: State = {"finish_reason": reply.finish_reason, "error": None}
        if hold:
            return {**done, "draft": reply.text}
        return {
            **done,
            "text": reply.text,
            "refusal": reply.refusal,
            "declined": bool(reply.refusal),
            "tool_calls": reply.tool_calls,
            "citations": await _located(reply.text, sources) if sources else (),
        }


async def _located(text: str, sources: list[Chunk]) -> tuple[Citation, ...]:
    # Long answers from long sources take longer than a loop may wait.
    return await asyncio.to_thread(evidence.located, text, sources)


def _named(model: str, release: Release | None) -> str:
    return f"{model}:{release}" if release else model


def _note(run: Run, through: Through, text: str, finish_reason: FinishReason) -> None:
    if outcome := through.outcome(text, finish_reason):
        run.formats.append((through.adapter.release, outcome))
