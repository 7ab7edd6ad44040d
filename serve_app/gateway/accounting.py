"""Around every answer: opened in the ledger, paid for, counted and closed, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from opentelemetry import trace
from starlette.requests import ClientDisconnect

from serve_app.domain import Answer, Cost, RequestContext, Usage, estimated_tokens
from serve_app.errors import TriviumError
from serve_app.ledger.accounts import Accounts
from serve_app.ledger.meter import CostMeter, Exchange
from serve_app.orchestration.graph import Orchestrator
from serve_app.orchestration.run import Question, Run
from serve_app.telemetry import tracing
from serve_app.telemetry.metrics import GatewayMetrics

log = logging.getLogger(__name__)

UNWRITTEN = "ledger-unavailable"


class Accounting:
    """Runs questions through the graph, on account."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        accounts: Accounts,
        meter: CostMeter,
        metrics: GatewayMetrics,
    ) -> None:
        self._orchestrator = orchestrator
        self._accounts = accounts
        self._meter = meter
        self._metrics = metrics

    def cost(self, question: Question, run: Run, answer: Answer | None) -> Cost:
        """What an answer cost, failed drafts included, and what other stacks would have taken."""
        text = answer.text if answer else ""
        found = run.evidence
        evidence = None if found is None else estimated_tokens(chunk.text for chunk in found)
        exchange = Exchange.of(question.messages, text, evidence)
        return self._meter.cost([*run.calls, *run.beside], exchange)

    @contextlib.asynccontextmanager
    async def answering(
        self,
        context: RequestContext,
        question: Question,
        asked_model: str,
        *,
        streaming: bool = False,
    ) -> AsyncIterator[tuple[Run, asyncio.Task[Answer]]]:
        """As `Orchestrator.answering`. When the block is left, the answer is in the ledger.

        Raises:
            BudgetExceeded: There have been too many requests.
        """
        started = time.monotonic()
        try:
            account = await self._accounts.open(context, asked_model, tracing.trace_id())
        except TriviumError as error:
            self._failed(context, error)
            raise
        outcome = "disconnected"
        failure: BaseException | None = None
        run: Run | None = None
        answer: Answer | None = None
        try:
            async with self._orchestrator.answering(
                context, question, account, streaming=streaming
            ) as (run, task):
                if not account.written:
                    run.degraded.append(UNWRITTEN)
                yield run, task
                if task.done() and not task.cancelled():
                    failure = task.exception()
                    answer = None if failure else task.result()
                    outcome = "failed" if answer is None else "refused" if answer.declined else "ok"
        except ClientDisconnect:
            raise
        except Exception as error:
            outcome, failure = "failed", error
            raise
        finally:
            seconds = time.monotonic() - started
            if failure:
                self._failed(context, failure)
            if run is None:
                await account.close(_row(None, None, None, outcome, seconds))
            else:
                cost = self.cost(question, run, answer)
                try:
                    self._count(context, run, outcome, cost, seconds)
                finally:
                    await account.close(_row(run, answer, cost, outcome, seconds))

    def _failed(self, context: RequestContext, error: BaseException) -> None:
        # A road that is not there yet when the house asks itself fails nobody.
        if not context.is_warm_up:
            self._metrics.failed(error)

    def _count(
        self,
        context: RequestContext,
        run: Run,
        outcome: str,
        cost: Cost,
        seconds: float,
    ) -> None:
        total = sum((call.usage for call in run.calls), Usage())
        span = trace.get_current_span()
        span.set_attribute("trivium.outcome", outcome)
        span.set_attribute("trivium.cost_usd", cost.total)
        span.set_attribute("gen_ai.usage.input_tokens", total.prompt_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", total.completion_tokens)
        if run.decision is None:
            return
        span.set_attribute("trivium.route", run.decision.route.value)
        if not context.is_warm_up:
            self._metrics.answered(run.decision, outcome, run.degraded, run.calls, cost, seconds)
            for release, form in run.formats:
                self._metrics.formatted(release, form)
            kept = _kept(run)
            if outcome == "ok" and kept is not None:
                self._metrics.judged("contract", good=kept)
        log.info(
            "answer request_id=%s tenant=%s route=%s outcome=%s degraded=%s prompt_tokens=%d "
            "completion_tokens=%d cost_usd=%.9f seconds=%.3f",
            context.request_id,
            context.tenant,
            run.decision.route.value,
            outcome,
            ",".join(run.degraded) or "-",
            total.prompt_tokens,
            total.completion_tokens,
            cost.total,
            seconds,
        )


def _row(
    run: Run | None, answer: Answer | None, cost: Cost | None, outcome: str, seconds: float
) -> dict[str, Any]:
    """The columns of `ledger.tables.answers` that are known at the end."""
    decision = run.decision if run else None
    last = run.calls[-1] if run and run.calls else None
    good = _kept(run) if run else None
    return {
        "status": outcome,
        "route": decision.route.value if decision else None,
        "confidence": decision.confidence if decision else None,
        "router_version": (decision.version or None) if decision else None,
        "model": last.model if last else None,
        "adapter": str(last.adapter) if last and last.adapter else None,
        "degraded": ",".join(run.degraded) if run else "",
        "finish_reason": answer.finish_reason if answer else None,
        "citations": len(answer.citations) if answer else None,
        "cost_nanos": round(cost.total * 1e9) if cost else None,
        "baseline_nanos": round(cost.baseline * 1e9) if cost else None,
        "all_frontier_nanos": round(cost.all_frontier * 1e9) if cost else None,
        "seconds": seconds,
        "stages_ms": {name: round(ms, 3) for name, ms in run.stages.items()} if run else None,
        "good": good,
        "judge": None if good is None else "contract",
    }


def _kept(run: Run) -> bool | None:
    """Whether the answer keeps its adapter's contract, where there is one: the rule that judges."""
    outcomes = [outcome for _, outcome in run.formats]
    return outcomes[-1] in ("kept", "repaired") if outcomes else None
