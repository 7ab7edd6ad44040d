"""An answer that the expert itself holds to be unlikely is left to the frontier."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.domain import Answer, Delta, Route, Usage
from serve_app.errors import BudgetExceeded, Unavailable
from serve_app.orchestration.run import Piece, Question
from tests.fixtures import (
    EXPERT,
    FRONTIER,
    FixedRouter,
    Free,
    House,
    ScriptedModel,
    context,
    decision,
    question,
)

RULE = {"below": -1.0, "tokens": 3}


def saying(*logprobs: float) -> ScriptedModel:
    """A model whose tokens are so likely."""
    said = [
        Delta(f"w{n} ", usage=Usage(10, n), logprobs=(each,)) for n, each in enumerate(logprobs, 1)
    ]
    return ScriptedModel(*said)


async def ask(house: House, asked: Question | None = None) -> tuple[Answer, list[Piece]]:
    running = house.orchestrator.answering(
        context(20.0), asked or question(), Free(), streaming=True
    )
    async with running as (run, task):
        pieces = [piece async for piece in run.pieces()]
        return await task, pieces


async def test_what_the_expert_doubts_the_frontier_answers() -> None:
    house = House(expert=saying(-0.1, -2.0, -3.0, -0.1, -0.1), doubt=RULE)
    answer, pieces = await ask(house)
    assert "".join(map(str, pieces)) == answer.text == "Deep thought."
    assert (answer.decision.route, answer.decision.stage) == (Route.FRONTIER, "2")
    assert "-1.70, below -1" in answer.decision.reason
    assert answer.degraded == ()
    # What was held back was paid for, and no more of it than was looked at.
    assert [(call.model, call.usage) for call in answer.calls] == [
        (EXPERT, Usage(10, 3)),
        (FRONTIER, Usage(10, 2)),
    ]
    assert house.expert.running == 0


@pytest.mark.parametrize("logprobs", [(-0.1, -1.0, -1.5, -9.0, -9.0), (-0.2, -0.3)])
async def test_what_it_does_not_doubt_arrives_whole(logprobs: tuple[float, ...]) -> None:
    house = House(expert=saying(*logprobs), doubt=RULE)
    answer, pieces = await ask(house)
    assert "".join(map(str, pieces)) == answer.text
    assert answer.text.split() == [f"w{n}" for n, _ in enumerate(logprobs, 1)]
    assert house.expert.asked[0].options["logprobs"] is True
    assert house.frontier.asked == []


async def test_a_short_answer_is_doubted_at_its_end() -> None:
    answer, _ = await ask(House(expert=saying(-4.0), doubt=RULE))
    assert answer.text == "Deep thought."


async def test_tokens_are_not_held_back_for_longer_than_they_may_be() -> None:
    house = House(expert=saying(-9.0, -9.0, -9.0), doubt={**RULE, "within_s": 1e-9})
    answer, _ = await ask(house)
    assert answer.text == "w1 w2 w3 "


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ({"pinned": Route.EXPERT}, {}),
        ({"options": {"response_format": {"type": "json_object"}}}, {}),
        ({}, {"router": FixedRouter(decision(Route.EXPERT, barred=(Route.FRONTIER,)))}),
        ({}, {"fallbacks": {}}),
        ({}, {"doubt": None}),
    ],
    ids=["named", "json", "barred", "no fallback", "off"],
)
async def test_doubt_is_not_asked_for_where_the_frontier_may_not_answer(
    asked: dict[str, Any], parts: dict[str, Any]
) -> None:
    house = House(**{"expert": saying(-9.0, -9.0, -9.0), "doubt": RULE, **parts})
    answer, _ = await ask(house, question(**asked))
    assert answer.text == "w1 w2 w3 "
    assert "logprobs" not in house.expert.asked[0].options


@pytest.mark.parametrize("error", [Unavailable("away"), BudgetExceeded("spent")])
async def test_what_it_doubts_the_expert_answers_where_the_frontier_cannot(
    error: Exception,
) -> None:
    house = House(
        expert=saying(-9.0, -9.0, -9.0),
        frontier=ScriptedModel(error),
        doubt=RULE,
        ledger={"at_limit": "refuse"},
    )
    answer, _ = await ask(house)
    assert answer.text == "w1 w2 w3 "
    assert [each.startswith("frontier-") for each in answer.degraded] == [True]
    assert ["logprobs" in each.options for each in house.expert.asked] == [True, False]
