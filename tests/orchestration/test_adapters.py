"""Answers through adapters: which one, in what form, and what happens when the form is broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain import Answer, Decision, Delta, Generation, Message, Release, Route, Usage
from serve_app.errors import AdapterUnusable, ContextLengthExceeded, FrontierNotConfigured
from serve_app.expert.contracts import parse
from serve_app.expert.serving import Adapter
from serve_app.orchestration.run import Question
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

HOUSE = Release("house", 3)
DATED = b"kind: markdown\ntemplate: 'Due: {due}'\nslots: {due: date}\n"
PLAIN = b"kind: markdown\ntemplate: 'Due: {due}'\n"
GOOD, BAD = "Due: 2026-07-03", "Due: soon"


def adapter(contract: bytes | None = None) -> Adapter:
    return Adapter(HOUSE, parse(contract, "contract.yaml") if contract else None)


class Replies(ScriptedModel):
    """Gives the next of its answers each time it is asked; errors are raised."""

    def __init__(self, *answers: str | Exception | Delta) -> None:
        super().__init__()
        self.answers = list(answers)

    def generate(self, context: Any, generation: Generation) -> Any:
        self.script = (self.answers.pop(0),)
        return super().generate(context, generation)


def fit(**shares: float) -> Decision:
    return replace(decision(Route.EXPERT), fit={"expert": 0.2, "knowledge": 0.2, **shares})


async def ask(house: House, asked: Question | None = None) -> Answer:
    async with house.orchestrator.answering(context(), asked or question(), Free()) as (_, task):
        return await task


async def streamed(house: House, asked: Question) -> tuple[list[str], Answer]:
    async with house.orchestrator.answering(context(), asked, Free(), streaming=True) as (
        run,
        task,
    ):
        return [str(piece) async for piece in run.pieces()], await task


def through(contract: bytes | None = None, **fields: Any) -> Question:
    return question(pinned=Route.EXPERT, adapter=adapter(contract), **fields)


async def test_adapter_answers_without_our_instructions_at_the_price_of_its_base() -> None:
    house = House()
    answer = await ask(house, through())
    (asked,) = house.expert.asked
    assert asked.adapter == HOUSE
    assert [m.role for m in asked.messages] == ["user"]
    (call,) = answer.calls
    assert (call.model, call.adapter) == (EXPERT, HOUSE)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (fit(house=0.5), HOUSE),
        (fit(house=0.1), None),  # the base is likelier
        (fit(unknown=0.5), None),  # an intent that is no adapter's
        (replace(fit(house=0.5), route=Route.FRONTIER), None),
    ],
)
async def test_intent_of_an_adapters_name_takes_the_adapter(
    made: Decision, expected: Release | None
) -> None:
    house = House(router=FixedRouter(made), adapters=[adapter()])
    await ask(house)
    (asked,) = house.expert.asked + house.frontier.asked
    assert asked.adapter == expected


async def test_road_that_the_caller_names_takes_no_adapter() -> None:
    house = House(router=FixedRouter(fit(house=0.9)), adapters=[adapter()])
    await ask(house, question(pinned=Route.EXPERT))
    assert house.expert.asked[0].adapter is None


async def test_engine_is_told_the_contract_and_an_answer_that_keeps_it_is_sent() -> None:
    house = House(expert=Replies(GOOD))
    answer = await ask(house, through(DATED))
    assert house.expert.asked[0].options["structured_outputs"]["regex"].startswith("Due: ")
    assert (answer.text, answer.degraded) == (GOOD, ())


async def test_broken_answer_is_repaired_once_and_told_what_is_wrong() -> None:
    house = House(expert=Replies(BAD, GOOD))
    answer = await ask(house, through(DATED))
    assert (answer.text, answer.degraded) == (GOOD, ())
    *_, draft, told = house.expert.asked[1].messages
    assert draft == Message("assistant", BAD)
    assert "a date like 2026-07-03" in told.content
    assert [call.purpose for call in answer.calls] == ["adapter", "repair"]


async def test_answer_that_stays_broken_goes_to_the_next_road_which_says_so() -> None:
    house = House(expert=Replies(BAD, BAD))
    answer = await ask(house, through(DATED))
    assert (answer.text, answer.degraded) == ("Deep thought.", ("expert-format",))
    assert len(house.expert.asked) == 2
    assert [call.model for call in answer.calls] == [EXPERT, EXPERT, FRONTIER]


async def test_with_no_road_left_the_broken_answer_is_sent_and_says_so() -> None:
    house = House(
        expert=Replies(BAD, "Due: later"), frontier=ScriptedModel(FrontierNotConfigured("no"))
    )
    answer = await ask(house, through(DATED))
    assert answer.text == "Due: later"
    assert answer.degraded == ("expert-format", "frontier-not-configured")


async def test_stream_of_a_broken_answer_names_the_adapter_that_wrote_it() -> None:
    house = House(expert=Replies(BAD, BAD), frontier=ScriptedModel(FrontierNotConfigured("no")))
    async with house.orchestrator.answering(context(), through(DATED), Free(), streaming=True) as (
        run,
        task,
    ):
        assert [piece async for piece in run.pieces()] == [BAD]
        assert run.model == f"{EXPERT}:house@3"
        await task


async def test_repair_that_does_not_fit_the_context_is_not_the_callers_fault() -> None:
    house = House(expert=Replies(BAD, ContextLengthExceeded("too long")))
    answer = await ask(house, through(DATED))
    assert answer.degraded == ("expert-format",)


async def test_format_of_the_caller_goes_before_the_contract() -> None:
    house = House(expert=Replies(BAD))
    answer = await ask(house, through(DATED, options={"response_format": {"type": "json_object"}}))
    assert answer.text == BAD
    assert "structured_outputs" not in house.expert.asked[0].options


async def test_answer_cut_by_its_bound_is_sent_as_it_is() -> None:
    cut = Delta("Due: 2026-", finish_reason="length", usage=Usage(10, 3))

    class Cut(ScriptedModel):
        async def generate(self, context: Any, generation: Generation) -> Any:
            self.asked.append(generation)
            yield cut

    house = House(expert=Cut())
    answer = await ask(house, through(DATED))
    assert (answer.text, answer.finish_reason, answer.degraded) == (cut.text, "length", ())
    assert len(house.expert.asked) == 1


async def test_what_the_engine_enforces_wholly_streams_and_what_it_cannot_is_held() -> None:
    for contract, pieces in ((PLAIN, ["Due: ", "soon"]), (DATED, ["Due: soon"])):
        model = ScriptedModel("Due: ", "soon") if contract == PLAIN else Replies(BAD, BAD)
        house = House(expert=model, frontier=ScriptedModel(FrontierNotConfigured("no")))
        sent, answer = await streamed(house, through(contract))
        assert "".join(sent) == answer.text
        assert len(sent) <= len(pieces)
        assert model.asked[0].options["structured_outputs"]


async def test_adapter_that_cannot_be_loaded_is_stood_in_for() -> None:
    house = House(expert=ScriptedModel(AdapterUnusable("damaged")))
    answer = await ask(house, through())
    assert (answer.text, answer.degraded) == ("Deep thought.", ("expert-adapter-unusable",))
