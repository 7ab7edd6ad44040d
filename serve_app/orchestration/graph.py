"""The state graph: which step follows which. The README's diagram is drawn from it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from serve_app.domain import Answer, RequestContext, Usage
from serve_app.errors import DeadlineExceeded
from serve_app.orchestration import nodes
from serve_app.orchestration.nodes import Node, Nodes, State
from serve_app.orchestration.run import Question, Run
from serve_app.telemetry import tracing


def build(steps: Nodes | type[Nodes]) -> Any:
    """Compile the graph of the three roads. (With the class alone it can be drawn, not run.)"""
    graph = StateGraph(State, context_schema=Run)
    for name in (
        "decide",
        "rewrite",
        "retrieve",
        "grade",
        "expert",
        "conform",
        "frontier",
        "answer",
        "verify",
        "abstain",
        "detour",
    ):
        graph.add_node(name, _traced(name, getattr(steps, name)))
    roads = ["expert", "rewrite", "frontier"]
    graph.add_edge(START, "decide")
    graph.add_conditional_edges("decide", nodes.after_decide, roads)
    graph.add_edge("rewrite", "retrieve")
    graph.add_conditional_edges("retrieve", nodes.after_retrieve, ["grade", "frontier", "detour"])
    graph.add_conditional_edges(
        "grade", nodes.after_grade, ["answer", "rewrite", "abstain", "frontier"]
    )
    graph.add_conditional_edges(
        "answer",
        nodes.after_answer,
        {"verify": "verify", "detour": "detour", "end": END},
    )
    graph.add_conditional_edges("frontier", nodes.after_model, {"detour": "detour", "end": END})
    graph.add_conditional_edges(
        "expert", nodes.after_expert, {"conform": "conform", "detour": "detour", "end": END}
    )
    graph.add_conditional_edges(
        "conform", nodes.after_conform, {"expert": "expert", "detour": "detour", "end": END}
    )
    graph.add_conditional_edges(
        "detour", nodes.after_detour, {**{road: road for road in roads}, "end": END}
    )
    graph.add_edge("verify", END)
    graph.add_edge("abstain", END)
    return graph.compile()


def diagram() -> str:
    """The graph as a Mermaid diagram."""
    return str(build(Nodes).get_graph().draw_mermaid()).strip()


class Orchestrator:
    """Runs questions through the graph."""

    def __init__(self, steps: Nodes) -> None:
        self._graph = build(steps)

    @contextlib.asynccontextmanager
    async def answering(
        self, context: RequestContext, question: Question, *, streaming: bool = False
    ) -> AsyncIterator[tuple[Run, asyncio.Task[Answer]]]:
        """Start a run. Its answer comes from the task; streaming, its text from `run.text()` first.

        Leaving the block cancels what is still running, down to the engine.

        Raises (from the task):
            TriviumError: No road could answer, or the request itself is at fault.
        """
        run = Run(context, streaming)
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
        )


def _traced(name: str, node: Node) -> Any:
    async def step(state: State, runtime: Runtime[Run]) -> State:
        with tracing.span(f"node {name}", {"trivium.node": name}):
            return await node(state, runtime)

    return step
