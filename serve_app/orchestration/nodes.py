"""The steps of the roads. Each takes the state, does one thing, and returns what it changed.

Those that find evidence and answer from it by rule are in `knowledge`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypedDict

from langgraph.runtime import Runtime

from serve_app.domain import (
    Chunk,
    Citation,
    Decision,
    FinishReason,
    Generation,
    Message,
    ModelCall,
    Route,
    SearchQuery,
    Usage,
)
from serve_app.errors import (
    FrontierNotConfigured,
    InvalidRequest,
    TriviumError,
    Unavailable,
)
from serve_app.orchestration import evidence
from serve_app.orchestration.prompts import Prompt, prompt
from serve_app.orchestration.run import Model, Question, Router, Run
from serve_app.telemetry import tracing


class State(TypedDict, total=False):
    """What the steps pass to each other.

    Attributes:
        road: The one being tried now.
        found: What the last search that found anything found, before it was graded.
        escalated: There is no evidence, and the frontier is asked instead.
    """

    question: Question
    decision: Decision
    road: Route
    tried: tuple[Route, ...]
    query: SearchQuery
    rewrites: int
    found: list[Chunk]
    chunks: list[Chunk]
    whole: bool
    draft: str
    text: str
    finish_reason: FinishReason
    citations: tuple[Citation, ...]
    escalated: bool
    error: TriviumError | None
    first_error: TriviumError


Node = Callable[[State, Runtime[Run]], Coroutine[Any, Any, State]]


class Nodes:
    """The steps that decide, let a model answer, or take another road.

    Args:
        models: Name in the price table and bound on the answer's tokens, of expert and frontier.
        verify: Hold drafts from evidence back until they are checked.
    """

    def __init__(
        self,
        router: Router,
        expert: Model,
        frontier: Model,
        *,
        models: Mapping[Route, tuple[str, int]],
        fallbacks: Mapping[Route, tuple[Route, ...]],
        verify: bool = True,
    ) -> None:
        self._router = router
        self._expert = expert
        self._frontier = frontier
        self._models = models
        self._fallbacks = fallbacks
        self._verify = verify

    async def decide(self, state: State, runtime: Runtime[Run]) -> State:
        """Choose the road: the one the caller named, or the router's."""
        run, question = runtime.context, state["question"]
        if question.pinned:
            decision = _pinned(question.pinned)
        else:
            try:
                decision = await self._router.decide(run.context, question.messages)
            except TriviumError as error:
                # Without a router the cheapest road still answers.
                run.degraded.append(reason("router", error))
                decision = replace(
                    _pinned(Route.EXPERT, "the router is not reachable"),
                    stage="fallback",
                    confidence=0.0,
                )
        run.decision = decision
        return {
            "decision": decision,
            "road": decision.route,
            "tried": (),
            "rewrites": 0,
            "error": None,
        }

    async def expert(self, state: State, runtime: Runtime[Run]) -> State:
        """Answer by the small model, streaming."""
        return await self._answer(state, runtime.context, Route.EXPERT, prompt("expert"))

    async def frontier(self, state: State, runtime: Runtime[Run]) -> State:
        """Answer by the outside model, streaming, with evidence when there is any."""
        sources = state.get("chunks", [])
        return await self._answer(
            state, runtime.context, Route.FRONTIER, prompt("frontier"), sources
        )

    async def answer(self, state: State, runtime: Runtime[Run]) -> State:
        """Draft an answer from the evidence. Held back until it is verified, unless that is off."""
        return await self._answer(
            state,
            runtime.context,
            Route.EXPERT,
            prompt("answer"),
            state["chunks"],
            hold=self._verify,
        )

    async def detour(self, state: State, runtime: Runtime[Run]) -> State:
        """A road failed before its first byte: take the next one, and say why.

        Raises:
            TriviumError: The first road's error, when no road is left.
        """
        failed = state["road"]
        error = state["error"] or Unavailable("the road failed")
        runtime.context.degraded.append(reason(failed.value, error))
        tried = (*state["tried"], failed)
        decision = state["decision"]
        for road in self._fallbacks.get(decision.route, ()):
            if road not in (*tried, *decision.barred):
                return {
                    "road": road,
                    "tried": tried,
                    "error": error,
                    "first_error": state.get("first_error", error),
                }
        raise state.get("first_error", error)

    async def _answer(
        self,
        state: State,
        run: Run,
        road: Route,
        instructions: Prompt,
        sources: list[Chunk] | None = None,
        *,
        hold: bool = False,
    ) -> State:
        model = self._expert if road is Route.EXPERT else self._frontier
        name, bound = self._models[road]
        question = state["question"]
        generation = Generation(
            messages=_instructed(question.messages, instructions, sources),
            max_tokens=min(question.max_tokens or bound, bound),
            options={**instructions.options, **question.options},
        )
        span = {
            "trivium.prompt.name": instructions.name,
            "trivium.prompt.version": instructions.version,
        }
        pieces: list[str] = []
        usage = Usage()
        finish: FinishReason = "stop"
        with tracing.span(f"prompt {instructions.name}", span):
            try:
                async for delta in model.generate(run.context, generation):
                    pieces.append(delta.text)
                    usage = delta.usage or usage
                    finish = delta.finish_reason or finish
                    if not hold:
                        run.emit(delta.text)
            except InvalidRequest:
                raise
            except TriviumError as error:
                if run.started:
                    raise
                return {"error": error}
            finally:
                # Also when the client has left in the middle: those tokens were paid for.
                if usage.total_tokens:
                    run.calls.append(ModelCall(name, instructions.name, usage))
        text = "".join(pieces)
        done: State = {"finish_reason": finish, "error": None}
        if hold:
            return {**done, "draft": text}
        return {
            **done,
            "text": text,
            "citations": evidence.located(text, sources or []),
        }


def after_decide(state: State) -> str:
    """Straight to the expert; to retrieval for facts, and for reasoning over what changes."""
    match state["road"]:
        case Route.KNOWLEDGE:
            return "rewrite"
        case Route.FRONTIER if state["decision"].volatile and "chunks" not in state:
            return "rewrite"
        case Route.FRONTIER:
            return "frontier"
        case Route.EXPERT:
            return "expert"


def after_model(state: State) -> str:
    if not state["error"]:
        return "end"
    # It stood in for evidence, which no other road has either.
    return "abstain" if state.get("escalated") else "detour"


def _pinned(route: Route, reason: str = "the caller named this road") -> Decision:
    scores = {road: float(road is route) for road in Route}
    return Decision(route, scores, 0.0, 0.0, 1.0, "pinned", reason)


def reason(road: str, error: TriviumError) -> str:
    """A token for the `x-trivium-degraded` header."""
    if isinstance(error, FrontierNotConfigured):
        return error.code
    return f"{road}-{error.code.replace('_', '-')}"


def _instructed(
    messages: tuple[Message, ...], instructions: Prompt, sources: list[Chunk] | None
) -> tuple[Message, ...]:
    """Our instructions before the caller's, as one system message: many templates take only one."""
    ours = instructions.render(sources=sources or [])
    theirs = [m.content for m in messages if m.role in ("system", "developer")]
    rest = [m for m in messages if m.role not in ("system", "developer")]
    return (Message("system", "\n\n".join([ours, *theirs])), *rest)
