"""Which road a question takes: the one that it must, or the router's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from serve_app.domain import Decision, ModelCall, Route
from serve_app.errors import RoadBarred, TriviumError
from serve_app.orchestration import detours
from serve_app.orchestration.run import Question, Router, Run
from serve_app.orchestration.state import reason

_ONLY_FRONTIER = "tools and pictures go to the frontier alone"


class Decider:
    """Asks the router, where it has to be asked.

    Args:
        model: Which gives the router's second opinion, as the price table names it.
    """

    def __init__(self, router: Router, model: str) -> None:
        self._router = router
        self._model = model

    async def decide(self, run: Run, question: Question) -> Decision:
        """The road that the question must take, or the router's.

        The policy's pins hold for both. Where there are none, a road that is named needs no router,
        but for the knowledge road: when an answer was true matters there, whoever chose it.

        Raises:
            TriviumError: It must take the frontier, and the router cannot be asked whether that is
                barred.
        """
        decision = await self._routed(run, question)
        if not (named := question.named):
            return decision
        why = _ONLY_FRONTIER if question.only_frontier else "the caller named this road"
        return replace(
            _pinned(named, why),
            barred=decision.barred,
            intended=decision.intended,
            latency_ms=decision.latency_ms,
            versions=decision.versions,
            **(_of_time(decision) if named is Route.KNOWLEDGE else {}),
        )

    async def needs_facts(self, run: Run, decision: Decision, question: Question) -> bool:
        """Whether the answer has to be looked up; of the frontier's own questions the router knows.

        What nobody knows counts as needed.
        """
        if decision.stage != "pinned" or decision.route is not Route.FRONTIER:
            return detours.needs_facts(decision)
        try:
            judged = await self._router.decide(
                run.context, question.messages, run.purse, question.collection
            )
        except TriviumError:
            return True
        self._note(run, judged)
        return detours.needs_facts(judged)

    async def _routed(self, run: Run, question: Question) -> Decision:
        named, unpinned = question.named, None
        try:
            if named and not await self._router.may_bar(run.context):
                unpinned = replace(_pinned(named, "nothing is pinned"), intended=())
                if named is not Route.KNOWLEDGE:
                    return unpinned
            # A road that is named needs no second opinion.
            purse = None if named else run.purse
            decision = await self._router.decide(
                run.context, question.messages, purse, question.collection
            )
        except TriviumError as error:
            # Nobody can say whether it needs facts, so it is looked up first: what the base has
            # nothing on goes to the expert. Nothing leaves the house.
            if named is Route.FRONTIER:
                raise
            run.degrade(reason("router", error))
            if unpinned:
                return unpinned
            decision = replace(
                _pinned(Route.KNOWLEDGE, "the router is not reachable"),
                stage="fallback",
                confidence=0.0,
                barred=(Route.FRONTIER,),
            )
        self._note(run, decision)
        return decision

    def _note(self, run: Run, decision: Decision) -> None:
        if decision.usage:
            run.beside.append(ModelCall(self._model, "route", decision.usage))


def barred(road: Route, question: Question) -> RoadBarred:
    """What is said where a question must take a road that a pin keeps it from."""
    otherwise = _ONLY_FRONTIER if question.only_frontier else "ask trivium/auto"
    return RoadBarred(
        f"the policy does not let this question go to trivium/{road}; {otherwise}", param="model"
    )


def _pinned(route: Route, reason: str) -> Decision:
    scores = {road: float(road is route) for road in Route}
    return Decision(route, scores, 0.0, 0.0, 1.0, "pinned", reason)


def _of_time(decision: Decision) -> dict[str, Any]:
    """What a decision says of how soon the answer changes."""
    return {"volatility": decision.volatility, "volatile": decision.volatile}
