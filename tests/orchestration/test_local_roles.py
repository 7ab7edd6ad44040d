"""The roles of the knowledge road, filled by the cross-encoder that comes along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from serve_app.domain import Answer, Entailment, Reading, RequestContext, Route
from serve_app.errors import SettingsError, Unavailable
from serve_app.orchestration.knowledge import NOT_FOUND
from serve_app.settings import from_args
from tests.fixtures import (
    FixedKnowledge,
    FixedRouter,
    Free,
    House,
    ScriptedModel,
    chunk,
    context,
    decision,
    question,
)

RETURNS = chunk("Be polite. Customers may return goods within 30 days.", "returns")
CANTEEN = chunk("The canteen opens at noon.", "canteen")


async def ask(knowledge: FixedKnowledge, roles: dict[str, Any], *draft: str) -> Answer:
    house = House(
        router=FixedRouter(decision(Route.KNOWLEDGE)),
        knowledge=knowledge,
        expert=ScriptedModel(*draft),
        roles=roles,
    )
    asked = question("May customers return goods?")
    async with house.orchestrator.answering(context(), asked, Free()) as (_, task):
        return await task


class Away(FixedKnowledge):
    """Its cross-encoder cannot be asked."""

    async def read(self, *_: Any) -> list[Reading]:
        raise Unavailable("away")

    async def check(self, *_: Any) -> list[Entailment]:
        raise Unavailable("away")


async def test_the_sentence_that_answers_is_quoted() -> None:
    answer = await ask(FixedKnowledge([RETURNS, CANTEEN]), {"answer": ["local"]})
    assert answer.text == "Policy: Customers may return goods within 30 days."
    assert [each.chunk.document_id for each in answer.citations] == ["returns"]
    assert answer.degraded == ()


async def test_what_nothing_answers_is_not_quoted() -> None:
    answer = await ask(FixedKnowledge([CANTEEN], [CANTEEN]), {"answer": ["local"]})
    assert answer.text == NOT_FOUND


async def test_chunks_that_do_not_answer_are_left_out() -> None:
    class Graded(FixedKnowledge):
        async def read(
            self, context: RequestContext, question: str, passages: Sequence[str]
        ) -> list[Reading]:
            return [Reading(0.9 if "canteen" in each else 0.0, 0, 0) for each in passages]

    # By its words the other one would be.
    found = await ask(Graded([RETURNS, CANTEEN]), {"grade": ["local"], "answer": ["local"]})
    assert [each.chunk.document_id for each in found.citations] == ["canteen"]


@pytest.mark.parametrize(
    ("draft", "text"),
    [
        ("Customers may return goods within 30 days [1].", RETURNS.text.partition(". ")[2]),
        ("Customers may not return goods within 30 days [1].", NOT_FOUND),
        ("Customers may return goods within 60 days [1].", NOT_FOUND),
        ("Goods are sold as they are [1].", NOT_FOUND),
    ],
)
async def test_sentences_that_sources_do_not_support_are_dropped(draft: str, text: str) -> None:
    roles = {"answer": ["expert"], "reflect": ["local"]}
    answer = await ask(FixedKnowledge([RETURNS], [RETURNS]), roles, draft)
    assert answer.text == text


async def test_rules_stand_in_and_the_answer_says_so() -> None:
    every = {role: ["local"] for role in ("grade", "answer", "reflect")}
    answer = await ask(Away([RETURNS]), every)
    assert answer.text == "Policy: Customers may return goods within 30 days."
    assert answer.degraded == (
        "grade-local-service-unavailable",
        "answer-local-service-unavailable",
    )
    roles = {"answer": ["expert"], "reflect": ["local"]}
    answer = await ask(Away([RETURNS]), roles, "Customers may return goods within 30 days [1].")
    assert answer.degraded == ("reflect-local-service-unavailable",)
    assert answer.text == "Customers may return goods within 30 days."


def test_it_does_not_rewrite() -> None:
    with pytest.raises(SettingsError, match="local writes nothing"):
        from_args({"orchestration": {"roles": {"rewrite": ["local"]}}})
