"""The state graph: which step follows which. The README's diagram is drawn from it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from serve_app.domain import Answer, RequestContext, Usage
from serve_app.errors import DeadlineExceeded
from serve_app.orchestration import branches, knowledge
from serve_app.orchestration.knowledge import KnowledgeNodes
from serve_app.orchestration.nodes import Nodes
from serve_app.orchestration.run import Purse, Question, Run
from serve_app.orchestration.state import Node, State
from serve_app.telemetry import tracing

# Who does each step; the trace shows it. Below the step of a role a span says who filled it.
BY = {
    "decide": "encoder",
    "rewrite": "role",
    "retrieve": "retriever",
    "grade": "role",
    "expert": "model",
    "overrule": "rule",
    "conform": "rule",
    "frontier": "model",
    "answer": "model",
    "reflect": "role",
    "quote": "rule",
    "abstain": "rule",
    "escalate": "rule",
    "detour": "rule",
}

# The state is one value. Of each field that it sees in a hint LangGraph makes a channel, which it
# copies and reads at every step: hence `Any` where it looks.
_WHOLE: Any = Annotated[dict[str, Any], lambda state, changes: {**state, **changes}]


def build(roads: Nodes | type[Nodes], facts: KnowledgeNodes | type[KnowledgeNodes]) -> Any:
    """Compile the graph of the three roads. (With the classes alone it can be drawn, not run.)"""
    graph = StateGraph(_WHOLE, context_schema=Run)
    for name in BY:
        graph.add_node(name, _traced(name, getattr(facts, name, None) or getattr(roads, name)))

    def branch(source: str, choose: Callable[..., str], *targets: str) -> None:
        async def chosen(state: Any) -> str:
            # LangGraph hands a plain function to a thread, which takes longer than any of these.
            return choose(state)

        ends: dict[Hashable, str] = {name: END if name == "end" else name for name in targets}
        graph.add_conditional_edges(source, chosen, ends)

    unanswered = ("rewrite", "abstain", "escalate", "expert")
    readers = ("answer", "quote")
    starts = ("expert", "rewrite", "frontier")
    graph.add_edge(START, "decide")
    branch("decide", branches.after_decide, *starts)
    graph.add_edge("rewrite", "retrieve")
    branch("retrieve", knowledge.after_retrieve, "grade", "frontier", "detour")
    branch("grade", facts.after_grade, *readers, "frontier", *unanswered)
    branch("answer", facts.after_answer, "reflect", *readers, "detour", "end")
    branch("reflect", facts.after_reading, *readers, "detour", "end", *unanswered)
    branch("quote", facts.after_reading, *readers, "detour", "end", *unanswered)
    branch("expert", branches.after_expert, "overrule", "conform", "detour", "end")
    branch("overrule", branches.after_decide, "rewrite", "frontier")
    branch("conform", branches.after_conform, "expert", "detour", "end")
    branch("frontier", branches.after_frontier, "detour", "abstain", "end")
    branch("detour", branches.after_detour, *starts, "end")
    graph.add_edge("escalate", "frontier")
    graph.add_edge("abstain", END)
    return graph.compile()


def diagram() -> str:
    """The graph as a Mermaid diagram."""
    return str(build(Nodes, KnowledgeNodes).get_graph().draw_mermaid()).strip()


class Orchestrator:
    """Runs questions through the graph."""

    def __init__(self, roads: Nodes, facts: KnowledgeNodes) -> None:
        self._graph = build(roads, facts)

    @contextlib.asynccontextmanager
    async def answering(
        self,
        context: RequestContext,
        question: Question,
        purse: Purse,
        *,
        streaming: bool = False,
    ) -> AsyncIterator[tuple[Run, asyncio.Task[Answer]]]:
        """Start a run. Its answer comes from the task; streaming, from `run.pieces()` first.

        Leaving the block cancels what is still running, down to the engine.

        Raises (from the task):
            TriviumError: No road could answer, or the request itself is at fault.
        """
        run = Run(context, purse, streaming)
        task = asyncio.create_task(self._answer(run, question))
        try:
            yield run, task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    async def _answer(self, run: Run, question: Question) -> Answer:
        attributes = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": "trivium",
        }
        try:
            patience = max(0.0, run.context.deadline - time.time())
            with tracing.span("invoke_workflow trivium", attributes):
                async with asyncio.timeout(patience):
                    state = await self._graph.ainvoke({"question": question}, context=run)
        except TimeoutError:
            raise DeadlineExceeded("the answer was not finished before the deadline") from None
        finally:
            run.end()
        answering = run.calls[-1].usage if run.calls else Usage()
        return Answer(
            text=state["text"],
            decision=state["decision"],
            finish_reason=state["finish_reason"],
            usage=answering,
            calls=tuple(run.calls),
            citations=state["citations"],
            degraded=tuple(run.degraded),
            tool_calls=state.get("tool_calls", ()),
            refusal=state.get("refusal", ""),
            declined=state.get("declined", False),
            adapted=tuple(run.adapted),
        )


def _traced(name: str, node: Node) -> Any:
    async def step(state: Any, runtime: Runtime[Run]) -> State:
        stages, began = runtime.context.stages, time.perf_counter()
        with tracing.span(f"node {name}", {"trivium.node": name, "trivium.node.by": BY[name]}):
            try:
                return await node(state, runtime)
            finally:
                took = (time.perf_counter() - began) * 1000
                stages[name] = stages.get(name, 0.0) + took

    return step
