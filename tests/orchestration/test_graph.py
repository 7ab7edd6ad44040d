from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain import Answer, Chunk, Delta, Message, Route, Usage
from serve_app.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    FrontierNotConfigured,
    InternalError,
    InvalidRequest,
    KnowledgeUnavailable,
    NotFound,
    Overloaded,
    RoadBarred,
    TriviumError,
    Unavailable,
)
from serve_app.orchestration import graph
from serve_app.orchestration.detours import NOT_NOW
from serve_app.orchestration.knowledge import NOT_FOUND
from serve_app.orchestration.run import Question
from tests.fixtures import (
    EXPERT,
    FRONTIER,
    QUOTES,
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

RETURNS = chunk("Customers may return goods within 30 days.", "returns")
NOISE = chunk("The canteen opens at noon.", "canteen", relevance=0.05)
DOWN = Unavailable("down")


async def ask(house: House, asked: Question | None = None, patience_s: float = 20.0) -> Answer:
    async with house.orchestrator.answering(context(patience_s), asked or question(), Free()) as (
        _,
        task,
    ):
        return await task


def knowledge(*results: list[Chunk] | Exception, **parts: Any) -> House:
    return House(
        router=FixedRouter(decision(Route.KNOWLEDGE, volatility=0.9)),
        knowledge=FixedKnowledge(*results),
        **parts,
    )


async def test_expert_answers_what_is_static() -> None:
    house = House()
    answer = await ask(house)
    assert answer.text == "Hello there."
    assert answer.decision.route is Route.EXPERT
    assert (answer.finish_reason, answer.citations, answer.degraded) == ("stop", (), ())
    assert [(call.model, call.usage) for call in answer.calls] == [(EXPERT, Usage(10, 2))]
    assert house.knowledge.queries == []
    assert house.frontier.asked == []


async def test_road_that_the_caller_names_is_taken() -> None:
    house = House()
    answer = await ask(house, question(pinned=Route.FRONTIER))
    assert answer.text == "Deep thought."
    assert answer.decision.stage == "pinned"


async def test_conversation_is_routed() -> None:
    turns = (Message("user", "one"), Message("assistant", "x"), Message("user", "two"))
    house = House()
    await ask(house, question(messages=turns))
    assert house.router.asked == [["one", "two"]]


async def test_instructions_of_the_caller_follow_ours_in_one_system_message() -> None:
    turns = (Message("developer", "Be brief."), Message("user", "hi"), Message("system", "Smile."))
    house = House()
    await ask(house, question(messages=turns))
    system, *rest = house.expert.asked[0].messages
    assert system.role == "system"
    assert system.content.endswith("Be brief.\n\nSmile.")
    assert rest == [Message("user", "hi")]


async def test_bound_of_the_caller_is_kept_and_said_where_ours_is_below_it() -> None:
    house = House()
    asked = [
        question(max_tokens=7, options={"temperature": 0.0}),
        question(max_tokens=100_000),
        question(),
    ]
    adapted = [(await ask(house, each)).adapted for each in asked]
    assert [generation.max_tokens for generation in house.expert.asked] == [7, 256, 256]
    assert adapted == [(), ("max_completion_tokens",), ()]
    assert house.expert.asked[0].options["temperature"] == 0.0


async def test_knowledge_answers_with_citations_of_supported_sentences_only() -> None:
    draft = ScriptedModel("You may return goods within 30 days. ", "Elephants fly at 900 knots.")
    house = knowledge([RETURNS, NOISE], expert=draft)
    answer = await ask(house)
    assert answer.text == "You may return goods within 30 days."
    (citation,) = answer.citations
    assert citation.chunk == RETURNS
    assert answer.text[citation.start : citation.end] == answer.text
    prompt = draft.asked[0].messages[1].content
    assert RETURNS.text in prompt
    assert NOISE.text not in prompt


async def test_unsupported_draft_is_replaced_by_a_quote() -> None:
    house = knowledge([RETURNS], expert=ScriptedModel("You have 90 days to send it back."))
    answer = await ask(house)
    assert answer.text == f"Policy: {RETURNS.text}"
    assert [citation.chunk for citation in answer.citations] == [RETURNS]


async def test_empty_draft_is_replaced_by_a_quote() -> None:
    answer = await ask(knowledge([RETURNS], expert=ScriptedModel()))
    assert answer.text == f"Policy: {RETURNS.text}"


async def test_draft_is_streamed_and_cited_when_verification_is_off() -> None:
    draft = ScriptedModel("Return goods within 30 days. ", "Elephants fly.")
    house = knowledge([RETURNS], expert=draft, roles={"reflect": ()})
    answer = await ask(house)
    assert answer.text == "Return goods within 30 days. Elephants fly."
    (citation,) = answer.citations
    assert answer.text[citation.start : citation.end] == "Return goods within 30 days."


async def test_nothing_relevant_is_searched_once_more_more_widely_then_admitted() -> None:
    house = knowledge([NOISE])
    turns = (
        Message("user", "I bought a tent."),
        Message("assistant", "Nice."),
        Message("user", "How long may I bring it back?"),
    )
    answer = await ask(house, question(messages=turns))
    assert answer.text == NOT_FOUND
    assert (answer.citations, answer.calls) == ((), ())
    assert house.knowledge.queries == [
        "How long may I bring it back?",
        "How long may I bring it back?\nI bought a tent.",
    ]


async def test_second_search_may_succeed() -> None:
    house = knowledge([], [RETURNS], expert=ScriptedModel("Within 30 days."))
    assert (await ask(house)).text == "Within 30 days."
    assert len(house.knowledge.queries) == 2


async def test_short_follow_up_is_searched_with_the_turn_before() -> None:
    turns = (Message("user", "How long for returns?"), Message("user", "And tents?"))
    house = knowledge([RETURNS])
    await ask(house, question(messages=turns))
    assert house.knowledge.queries == ["And tents?\nHow long for returns?"]


async def test_collection_that_was_never_filled_is_an_answer_not_a_failure() -> None:
    answer = await ask(knowledge(NotFound("no collection")))
    assert (answer.text, answer.degraded) == (NOT_FOUND, ())


async def test_reasoning_over_live_data_gets_evidence() -> None:
    house = House(
        router=FixedRouter(decision(Route.FRONTIER, volatility=0.9)),
        frontier=ScriptedModel("Goods may be returned within 30 days."),
        knowledge=FixedKnowledge([RETURNS, NOISE]),
    )
    answer = await ask(house)
    assert [citation.chunk for citation in answer.citations] == [RETURNS]
    assert RETURNS.text in house.frontier.asked[0].messages[1].content


async def test_reasoning_over_what_is_static_searches_nothing() -> None:
    house = House(router=FixedRouter(decision(Route.FRONTIER, volatility=0.1)))
    await ask(house)
    assert house.knowledge.queries == []


async def test_reasoning_without_reachable_evidence_goes_on_and_says_so() -> None:
    house = House(
        router=FixedRouter(decision(Route.FRONTIER, volatility=0.9)), knowledge=FixedKnowledge(DOWN)
    )
    answer = await ask(house)
    assert answer.text == "Deep thought."
    assert answer.degraded == ("knowledge-service-unavailable",)


async def test_unreachable_knowledge_base_is_stood_in_for() -> None:
    answer = await ask(knowledge(DOWN))
    assert answer.text == "Deep thought."
    assert answer.degraded == ("knowledge-service-unavailable",)
    assert answer.decision.route is Route.KNOWLEDGE


UNREACHED = FrontierNotConfigured("none")


def unreached(route: Route | None, **more: Any) -> House:
    """Neither the knowledge base nor the frontier answers."""
    made = decision(route or Route.KNOWLEDGE, volatility=0.9)
    return House(
        router=FixedRouter(made),
        knowledge=FixedKnowledge(DOWN),
        frontier=ScriptedModel(UNREACHED),
        **more,
    )


@pytest.mark.parametrize("reader", ["rule", "expert"])
@pytest.mark.parametrize("down", [DOWN, DeadlineExceeded("too late"), InternalError("broken")])
@pytest.mark.parametrize(
    ("pinned", "route"),
    [
        (Route.KNOWLEDGE, Route.KNOWLEDGE),
        (None, Route.KNOWLEDGE),
        (None, Route.FRONTIER),
        (Route.FRONTIER, Route.KNOWLEDGE),
        (Route.FRONTIER, Route.FRONTIER),
    ],
)
async def test_facts_that_cannot_be_looked_up_are_never_invented(
    pinned: Route | None, route: Route, down: TriviumError, reader: str
) -> None:
    house = unreached(route, roles={"answer": [reader]})
    house.knowledge.results = [down]
    with pytest.raises(KnowledgeUnavailable, match="cannot be looked up now") as caught:
        await ask(house, question(pinned=pinned))
    assert caught.value.status == 503
    assert caught.value.retry_after_s
    assert house.expert.asked == []


async def test_facts_that_cannot_be_looked_up_may_be_admitted_in_a_sentence() -> None:
    house = unreached(Route.KNOWLEDGE, without_knowledge="say so")
    answer = await ask(house)
    assert (answer.text, answer.finish_reason) == (NOT_NOW, "stop")
    assert answer.degraded == ("knowledge-service-unavailable", "frontier-not-configured")
    assert house.expert.asked == []


async def test_facts_are_looked_up_where_the_frontier_cannot_reason_over_them() -> None:
    house = unreached(Route.FRONTIER, roles=QUOTES)
    house.knowledge.results = [[RETURNS]]
    answer = await ask(house, question("May customers return goods?"))
    assert [citation.chunk for citation in answer.citations] == [RETURNS]
    assert answer.degraded == ("frontier-not-configured",)
    assert house.expert.asked == []


async def test_what_needs_no_facts_goes_from_the_frontier_to_the_expert() -> None:
    for pinned in (None, Route.FRONTIER):
        static = decision(Route.FRONTIER if pinned is None else Route.EXPERT, volatility=0.1)
        house = House(router=FixedRouter(static), frontier=ScriptedModel(UNREACHED))
        assert (await ask(house, question(pinned=pinned))).text == "Hello there."


async def test_full_knowledge_road_is_told_as_it_is() -> None:
    house = unreached(Route.KNOWLEDGE)
    house.knowledge.results = [Overloaded("full", retry_after_s=1)]
    with pytest.raises(Overloaded):
        await ask(house)


async def test_expert_that_fails_on_evidence_hands_it_to_the_rule() -> None:
    house = knowledge([RETURNS], expert=ScriptedModel(DOWN))
    answer = await ask(house)
    assert answer.text == f"Policy: {RETURNS.text}"
    assert answer.degraded == ("answer-expert-service-unavailable",)
    assert house.frontier.asked == []


@pytest.mark.parametrize("readers", [("expert",), ("expert", "rule")])
async def test_expert_that_fails_on_evidence_hands_it_to_the_frontier(
    readers: tuple[str, ...],
) -> None:
    """Where no rule may stand in, or finds nothing near enough to quote."""
    house = knowledge(
        [RETURNS],
        expert=ScriptedModel(DOWN),
        frontier=ScriptedModel("Within 30 days."),
        roles={"answer": readers},
        min_quote=1.0,
    )
    answer = await ask(house)
    assert answer.degraded[-1] == "knowledge-service-unavailable"
    assert [citation.chunk for citation in answer.citations] == [RETURNS]


async def test_road_that_a_pin_forbids_does_not_stand_in() -> None:
    house = House(
        router=FixedRouter(decision(Route.KNOWLEDGE, barred=(Route.FRONTIER,))),
        knowledge=FixedKnowledge([]),
        without_evidence="frontier",
    )
    assert (await ask(house)).text == NOT_FOUND
    house.knowledge.results = [DOWN]
    with pytest.raises(KnowledgeUnavailable):
        await ask(house)
    assert house.frontier.asked == []


async def test_road_that_a_pin_forbids_is_not_taken_by_name() -> None:
    house = House(router=FixedRouter(decision(barred=(Route.FRONTIER,))))
    with pytest.raises(RoadBarred, match="trivium/frontier"):
        await ask(house, question(pinned=Route.FRONTIER))
    assert house.frontier.asked == []


BARRED = RoadBarred("the policy does not let this question go to trivium/frontier")


async def test_what_the_door_keeps_is_answered_in_the_house() -> None:
    """A pin met what the router did not know of, such as evidence or the text of a tool."""
    house = House(
        router=FixedRouter(decision(Route.FRONTIER, volatility=0.9)),
        frontier=ScriptedModel(BARRED),
        knowledge=FixedKnowledge([RETURNS]),
        expert=ScriptedModel("Goods may be returned within 30 days."),
        fallbacks={"frontier": ("knowledge", "expert")},
    )
    answer = await ask(house)
    assert answer.text == "Goods may be returned within 30 days."
    assert answer.degraded == ("frontier-road-barred",)
    assert answer.decision.barred == (Route.FRONTIER,)


async def test_what_the_door_keeps_is_not_brought_there_again() -> None:
    """The knowledge road would ask the frontier where it finds nothing."""
    house = House(
        router=FixedRouter(decision(Route.FRONTIER)),
        frontier=ScriptedModel(BARRED),
        knowledge=FixedKnowledge([]),
        fallbacks={"frontier": ("knowledge",)},
        without_evidence="frontier",
    )
    assert (await ask(house)).text == NOT_FOUND
    assert len(house.frontier.asked) == 1


@pytest.mark.parametrize(
    "fields", [{"pinned": Route.FRONTIER}, {"options": {"tools": [{"type": "function"}]}}]
)
async def test_what_the_door_keeps_is_refused_where_no_other_road_may_answer(
    fields: dict[str, Any],
) -> None:
    house = House(frontier=ScriptedModel(BARRED))
    with pytest.raises(RoadBarred) as caught:
        await ask(house, question(**fields))
    assert caught.value.param == "model"
    assert house.expert.asked == []


async def test_road_that_fails_after_a_barred_one_gives_its_own_error() -> None:
    house = House(
        router=FixedRouter(decision(Route.FRONTIER)),
        frontier=ScriptedModel(BARRED),
        expert=ScriptedModel(DOWN),
        fallbacks={"frontier": ("expert",)},
    )
    with pytest.raises(Unavailable):
        await ask(house)


@pytest.mark.parametrize("intended", [None, ("legal",), ()])
@pytest.mark.parametrize("pinned", [None, Route.FRONTIER])
async def test_door_is_told_which_intents_the_router_found(
    pinned: Route | None, intended: tuple[str, ...] | None
) -> None:
    made = replace(decision(Route.FRONTIER), intended=intended)
    house = House(router=FixedRouter(made))
    await ask(house, question(pinned=pinned))
    assert house.frontier.asked[0].intended == intended


@pytest.mark.parametrize("road", list(Route))
async def test_road_that_is_named_needs_no_router_where_nothing_is_pinned(road: Route) -> None:
    house = House(router=FixedRouter(DOWN, is_open=True), knowledge=FixedKnowledge([RETURNS]))
    answer = await ask(house, question(pinned=road))
    assert (answer.decision.route, answer.decision.stage) == (road, "pinned")
    # Of the knowledge road it is asked how soon the answer changes; nobody knows that now.
    asked = road is Route.KNOWLEDGE
    assert answer.degraded == (("router-service-unavailable",) if asked else ())
    assert len(house.router.asked) == asked


@pytest.mark.parametrize("is_open", [True, False])
async def test_the_knowledge_road_by_name_prefers_what_is_new(is_open: bool) -> None:
    changes = decision(Route.FRONTIER, volatility=0.9)
    knowledge = FixedKnowledge([RETURNS])
    house = House(router=FixedRouter(changes, is_open=is_open), knowledge=knowledge)
    answer = await ask(
        house, question("What was the revenue in the last hour?", pinned=Route.KNOWLEDGE)
    )
    assert (answer.decision.route, answer.decision.volatility) == (Route.KNOWLEDGE, 0.9)
    assert knowledge.searches[0].recent
    assert knowledge.searches[0].since is not None


async def test_road_that_a_pin_forbids_does_not_stand_in_for_a_named_one() -> None:
    house = House(
        router=FixedRouter(decision(barred=(Route.FRONTIER,))), expert=ScriptedModel(DOWN)
    )
    with pytest.raises(Unavailable):
        await ask(house, question(pinned=Route.EXPERT))
    assert house.frontier.asked == []


@pytest.mark.parametrize("pinned", [Route.FRONTIER, Route.EXPERT, None])
async def test_nothing_leaves_the_house_while_the_router_is_down(pinned: Route | None) -> None:
    house = House(router=FixedRouter(DOWN), expert=ScriptedModel(DOWN))
    with pytest.raises(Unavailable):
        await ask(house, question(pinned=pinned))
    assert house.frontier.asked == []


async def test_without_a_router_what_the_base_knows_is_looked_up() -> None:
    house = House(router=FixedRouter(DOWN), knowledge=FixedKnowledge([RETURNS]), roles=QUOTES)
    answer = await ask(house, question("May customers return goods?"))
    assert [citation.chunk for citation in answer.citations] == [RETURNS]
    assert answer.degraded == ("router-service-unavailable",)
    assert house.expert.asked == []


async def test_without_a_router_the_expert_answers_what_the_base_has_nothing_on() -> None:
    answer = await ask(House(router=FixedRouter(DOWN)))
    assert answer.text == "Hello there."
    assert answer.degraded == ("router-service-unavailable",)


async def test_without_router_and_knowledge_nobody_guesses() -> None:
    house = House(router=FixedRouter(DOWN), knowledge=FixedKnowledge(DOWN))
    with pytest.raises(KnowledgeUnavailable):
        await ask(house)
    assert (house.expert.asked, house.frontier.asked) == ([], [])


async def test_failed_draft_is_paid_for() -> None:
    broken = ScriptedModel(Delta(usage=Usage(10, 3)), DOWN)
    answer = await ask(House(expert=broken))
    assert [(call.model, call.usage) for call in answer.calls] == [
        (EXPERT, Usage(10, 3)),
        (FRONTIER, Usage(10, 2)),
    ]
    assert answer.usage == Usage(10, 2)


async def test_all_roads_down_gives_the_first_error() -> None:
    first = Overloaded("the expert is full", retry_after_s=1)
    house = House(expert=ScriptedModel(first), frontier=ScriptedModel(DOWN))
    with pytest.raises(Overloaded) as caught:
        await ask(house)
    assert caught.value.message == first.message


TOO_LONG = ContextLengthExceeded("too long", param="messages")
NO = InvalidRequest("no", param="response_format")


@pytest.mark.parametrize("error", [TOO_LONG, NO])
@pytest.mark.parametrize("first", [Route.EXPERT, Route.FRONTIER])
async def test_what_one_road_refuses_another_may_take(error: TriviumError, first: Route) -> None:
    refuses, takes = ScriptedModel(error), ScriptedModel("Taken.")
    expert, frontier = (refuses, takes) if first is Route.EXPERT else (takes, refuses)
    house = House(router=FixedRouter(decision(first)), expert=expert, frontier=frontier)
    answer = await ask(house)
    assert answer.text == "Taken."
    assert answer.degraded == (f"{first.value}-{error.code.replace('_', '-')}",)


@pytest.mark.parametrize("error", [TOO_LONG, NO])
async def test_what_no_road_takes_is_refused_by_name(error: TriviumError) -> None:
    house = House(expert=ScriptedModel(error), frontier=ScriptedModel(UNREACHED))
    with pytest.raises(type(error)) as caught:
        await ask(house)
    assert caught.value.param == error.param


async def test_road_that_the_caller_names_refuses_for_itself() -> None:
    house = House(expert=ScriptedModel(TOO_LONG))
    with pytest.raises(ContextLengthExceeded):
        await ask(house, question(pinned=Route.EXPERT))
    assert house.frontier.asked == []


@pytest.mark.parametrize(
    ("named", "told"), [(Route.KNOWLEDGE, KnowledgeUnavailable), (Route.EXPERT, Unavailable)]
)
async def test_outage_of_a_named_road_is_no_fault_of_the_request(
    named: Route, told: type[TriviumError]
) -> None:
    house = House(
        knowledge=FixedKnowledge(DOWN), expert=ScriptedModel(DOWN), frontier=ScriptedModel(NO)
    )
    with pytest.raises(told):
        await ask(house, question(pinned=named))
    assert house.frontier.asked


async def test_refusal_is_carried_and_is_no_text() -> None:
    refusing = ScriptedModel(
        Delta(refusal="I cannot ", usage=Usage(10, 2)), Delta(refusal="say.", finish_reason="stop")
    )
    answer = await ask(House(expert=refusing))
    assert (answer.text, answer.refusal, answer.finish_reason) == ("", "I cannot say.", "stop")
    assert answer.declined


async def test_no_road_takes_over_after_the_first_byte() -> None:
    house = House(expert=ScriptedModel("Hel", DOWN))
    async with house.orchestrator.answering(context(), question(), Free(), streaming=True) as (
        run,
        task,
    ):
        assert "".join([str(piece) async for piece in run.pieces()]) == "Hel"
        with pytest.raises(Unavailable):
            await task
    assert house.frontier.asked == []


async def test_deadline_ends_the_run_and_the_model() -> None:
    house = House(expert=ScriptedModel("Hel", asyncio.Event()))
    with pytest.raises(DeadlineExceeded):
        await ask(house, patience_s=0.2)
    assert house.expert.running == 0


async def test_leaving_cancels_the_model_and_keeps_the_count() -> None:
    house = House(expert=ScriptedModel("Hel", asyncio.Event()))
    async with house.orchestrator.answering(context(), question(), Free(), streaming=True) as (
        run,
        _,
    ):
        assert await anext(aiter(run.pieces())) == "Hel"
        assert house.expert.running == 1
    assert house.expert.running == 0
    assert [call.usage for call in run.calls] == [Usage(10, 1)]


async def test_questions_at_once_do_not_mix() -> None:
    house = House()
    answers = await asyncio.gather(*(ask(house, question(str(i))) for i in range(20)))
    assert {answer.text for answer in answers} == {"Hello there."}
    assert all(len(answer.calls) == 1 for answer in answers)


def test_diagram_names_every_step() -> None:
    drawn = graph.diagram()
    for name in (
        "decide rewrite retrieve grade expert frontier answer reflect quote abstain escalate detour"
    ).split():
        assert f"\t{name}(" in drawn
        assert f"{name} -" in drawn or f"{name};" in drawn
