"""A secret that a pin keeps is in no byte that a provider receives: whole roads, SDKs, sockets.

Conversations are generated from numbers. Each has a secret somewhere, written in some way, and
beside it in the same text a word that survives every encoding: where that word arrives, the text
has left.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import yaml

from serve_app.domain import (
    Answer,
    Chunk,
    Decision,
    Image,
    Message,
    RequestContext,
    Route,
    ToolCall,
)
from serve_app.errors import InvalidRequest, RoadBarred, Unavailable
from serve_app.frontier.deployment import FrontierServer
from serve_app.gateway.roads import RemoteRouter
from serve_app.handles import Remote
from serve_app.orchestration.embedding import Embedding
from serve_app.orchestration.graph import Orchestrator
from serve_app.orchestration.knowledge import KnowledgeNodes
from serve_app.orchestration.nodes import Nodes
from serve_app.orchestration.prompts import load_prompts
from serve_app.orchestration.roles.assigned import Roles
from serve_app.orchestration.run import Question
from serve_app.pins import Pin
from serve_app.router.heads import SHIPPED, Heads, Signals
from serve_app.router.outcomes import load_outcomes
from serve_app.router.policy import DEFAULT, Policy, parse_policy
from serve_app.router.policy import pins as pins_of
from serve_app.router.turns import Turns
from serve_app.router.value import Known, prices
from serve_app.settings import OrchestrationSettings, RoleSettings, Settings
from tests.fixtures import (
    CALIBRATION,
    EXPERT,
    FRONTIER,
    MIN_RELEVANCE,
    FixedKnowledge,
    Free,
    InProcess,
    ScriptedModel,
    chunk,
    context,
)
from tests.frontier.requests import Kind
from tests.frontier.wire import KEY, Recorder

KNOWN = Known(load_outcomes(None), prices(Settings()), Heads.load(SHIPPED).roads)
KINDS: tuple[Kind, ...] = ("openai", "anthropic", "openai-responses")
PIN = {"name": "projects", "never": ["frontier"], "matches": r"\bproject bluebird\b"}
WAYS = (
    "Project Bluebird",
    "PROJECT BLUEBIRD",
    "Project Blue\u200bbird",
    "Pro\u00adject Blue\u2060bird",
    "Project\u00a0Bluebird",
    "Project\n  Bluebird",
    "\uff30\uff52\uff4f\uff4a\uff45\uff43\uff54 Bluebird",
    "of\\nProject Bluebird",
    "?q=Project%20Bluebird",
    "Project&nbsp;Blue&shy;bird",
)
PICTURE = Image("data:image/png;base64,iVBORw0KGgo=")
ASK = Message("user", "Compare three strategies.")
FORM = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class Case:
    """What is asked, and what the knowledge base says."""

    question: Question
    documents: list[Chunk] = field(default_factory=list)


def of_turns(*messages: Message, **options: Any) -> Case:
    return Case(Question(messages, "default", options=options))


def tool(**fields: Any) -> dict[str, Any]:
    function = {"name": "search", "description": "Finds.", "parameters": FORM, **fields}
    return {"type": "function", "function": function}


def called(arguments: str, result: str) -> tuple[Message, ...]:
    call = ToolCall(0, "call_1", "search", arguments)
    return (
        ASK,
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", result, tool_call_id="call_1"),
    )


def schema(secret: str) -> dict[str, Any]:
    form = {**FORM, "description": secret}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": form, "strict": True}}


PLACES = {
    "first turn": lambda s: of_turns(Message("user", s), Message("assistant", "Yes."), ASK),
    "last turn": lambda s: of_turns(ASK, Message("assistant", "Yes."), Message("user", s)),
    "system": lambda s: of_turns(Message("system", s), ASK),
    "developer": lambda s: of_turns(ASK, Message("developer", s)),
    "assistant": lambda s: of_turns(ASK, Message("assistant", s), ASK),
    "middle": lambda s: of_turns(Message("user", "word " * 3_000 + s + " word" * 3_000)),
    "document": lambda s: Case(
        Question((ASK,), "default"), [chunk(f"Of strategies: {s}."), chunk("Noon.", "canteen")]
    ),
    "title": lambda s: Case(Question((ASK,), "default"), [chunk("Compare strategies.", title=s)]),
    "tool result": lambda s: of_turns(*called("{}", s), tools=[tool()]),
    "tool result in JSON": lambda s: of_turns(*called("{}", json.dumps([s])), tools=[tool()]),
    "tool call": lambda s: of_turns(*called(json.dumps({"for": s}), "none"), tools=[tool()]),
    "tool description": lambda s: of_turns(ASK, tools=[tool(description=s)]),
    "tool schema": lambda s: of_turns(
        ASK, tools=[tool(parameters={**FORM, "properties": {"a": {"enum": [s]}}})]
    ),
    "response format": lambda s: of_turns(ASK, response_format=schema(s)),
    "beside a picture": lambda s: of_turns(Message("user", f"Look. {s}", ("Look. ", PICTURE, s))),
    "around a picture": lambda s: of_turns(
        Message("user", s, (s[: len(s) // 2], PICTURE, s[len(s) // 2 :]))
    ),
}
LONG = "middle of 200 KB"
SHIPPED_POLICY = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
ROADS = (None, None, None, Route.FRONTIER, Route.FRONTIER, Route.KNOWLEDGE, Route.EXPERT)


def generated(number: int) -> tuple[str, str, Case]:
    """The place of a secret, the word beside it, and the conversation."""
    dice = random.Random(number)
    word = "kanari" + "".join(dice.choices("abcdefghijklmnop", k=12))
    secret = f"{word} is {dice.choice(WAYS)}, for nobody {word}"
    place = LONG if number % 50 == 0 else list(PLACES)[number % len(PLACES)]
    if place == LONG:
        case = of_turns(Message("user", "word " * 20_000 + secret + " word" * 20_000))
    else:
        case = PLACES[place](secret)
    needs_frontier = case.question.only_frontier
    pinned = None if needs_frontier and dice.random() < 0.5 else dice.choice(ROADS)
    pinned = Route.FRONTIER if needs_frontier and pinned else pinned
    if case.documents:
        # The frontier reads evidence where the router sends it there, or where another road fails.
        pinned = dice.choice((None, None, Route.KNOWLEDGE))
    return place, word, replace(case, question=replace(case.question, pinned=pinned))


class Deciding:
    """A router deployment that finds anything likely, under a real policy."""

    def __init__(self, policy: Policy, dice: random.Random) -> None:
        self.policy = policy
        self.dice = dice

    async def pins(self, context: RequestContext) -> tuple[Pin, ...]:
        return self.policy.pins_of(context.tenant)

    async def decide(
        self, context: RequestContext, asked: Sequence[tuple[RequestContext, Turns]]
    ) -> list[tuple[Decision, bool]]:
        made = []
        for one, turns in asked:
            fit = {road.value: self.dice.random() ** 4 for road in Route}
            signals = Signals(fit, 1.0, self.dice.random(), self.dice.random())
            # Half of the time it overlooks what was found: the door must not rely on it.
            matched = (turns.matched or frozenset()) if self.dice.random() < 0.5 else frozenset()
            made.append((self.policy.decide(signals, KNOWN, one.tenant, matched), False))
        return made


# Who thinks on the knowledge road. A model that is no good for it is asked all the same.
ROLES: tuple[dict[str, Any], ...] = (
    {},
    {"rewrite": ["frontier"], "grade": ["frontier"], "reflect": ["frontier"]},
    {"answer": ["frontier", "expert", "rule"], "reflect": ["expert", "rule"]},
)


class Roads:
    """All roads, with one door to providers. What varies is set for each question."""

    def __init__(self, door: Any, models: int, policy: Policy, number: int) -> None:
        self.dice = random.Random(number)
        self.expert = ScriptedModel()
        self.knowledge = FixedKnowledge()
        deciding: Any = InProcess(Deciding(policy, self.dice))
        rules = OrchestrationSettings(
            without_evidence="frontier" if number % 2 else "say so",
            roles=RoleSettings.model_validate(ROLES[number % len(ROLES)]),
        )
        prompts = load_prompts()
        roles = Roles.of(
            rules,
            {Route.EXPERT: (self.expert, [EXPERT]), Route.FRONTIER: (door, [FRONTIER] * models)},
            prompts,
            self.knowledge,
            Embedding(),
            CALIBRATION,
            min_relevance=MIN_RELEVANCE,
        )
        self.orchestrator = Orchestrator(
            Nodes(
                RemoteRouter(Remote(deciding, "router", 5.0), 1, 8, EXPERT, "default"),
                self.expert,
                door,
                models={
                    Route.EXPERT: ([EXPERT], 64),
                    Route.FRONTIER: ([FRONTIER] * models, 64),
                },
                roles=roles,
                fallbacks={road: tuple(r for r in Route if r is not road) for road in Route},
                hedge_after_s=0.001 if number % 2 else None,
            ),
            KnowledgeNodes(
                self.knowledge,
                roles,
                rules,
                top_k=4,
                whole_tokens=1000 if number % 2 == 0 else 0,
            ),
        )

    async def ask(self, case: Case) -> Answer:
        down = Unavailable("down")
        self.expert.script = (down,) if self.dice.random() < 0.5 else ("An answer.",)
        self.knowledge.results = [case.documents if self.dice.random() < 0.9 else down]
        async with self.orchestrator.answering(context(), case.question, Free()) as (_, task):
            return await task


@contextlib.asynccontextmanager
async def houses(*pins: dict[str, Any]) -> AsyncIterator[tuple[list[Roads], list[Recorder]]]:
    """Roads to each kind of provider, with fallbacks of the others, and what those received."""
    policy = parse_policy({**SHIPPED_POLICY, "pins": list(pins)}, "test")
    async with contextlib.AsyncExitStack() as stack:
        recorders = [await stack.enter_async_context(Recorder.listening(kind)) for kind in KINDS]
        ways: list[dict[str, Any]] = [
            {"provider": each.kind, "model": each.kind, "base_url": each.url, "api_key": KEY}
            for each in recorders
        ]
        away = {**ways[0], "base_url": "http://127.0.0.1:1/v1"}
        orders = ([ways[0]], [ways[1], ways[0]], [ways[2], ways[1]], [away, ways[0]], [ways[1]])
        made = []
        for number, (first, *others) in enumerate(orders):
            settings = {**first, "fallbacks": others, "retries": 1, "circuit": {"failures": 1}}
            door = FrontierServer(pins_of, None)
            held = {"policy": policy.model_dump(mode="json")}
            await door.reconfigure({"frontier": settings, "router": held})
            hedged = len(others) if number % 2 else 0
            made.append(Roads(door, 1 + hedged, policy, number))
        yield made, recorders


async def run(numbers: range, *pins: dict[str, Any]) -> tuple[Counter[str], Counter[str]]:
    """Ask them all. How often each place's secret got out, and what came of the questions."""
    left, outcomes = Counter[str](), Counter[str]()
    async with houses(*pins) as (roads, recorders):
        for number in numbers:
            place, word, case = generated(number)
            try:
                outcomes["answered"] += bool((await roads[number % len(roads)].ask(case)).text)
            except (RoadBarred, InvalidRequest, Unavailable) as error:
                outcomes[error.code] += 1
            received = [each for recorder in recorders for each in recorder.received]
            left[place] += any(word.encode() in each for each in received)
            outcomes["asked outside"] += bool(received)
            for recorder in recorders:
                recorder.received.clear()
    return left, outcomes


@pytest.mark.timeout(300)
async def test_secret_never_leaves_over_a_thousand_conversations() -> None:
    left, outcomes = await run(range(1, 1001), PIN)
    assert left.total() == 0, {place: n for place, n in left.items() if n}
    assert outcomes["answered"] > 200
    assert outcomes["road_barred"] > 200


async def test_without_the_pin_it_leaves_from_every_place() -> None:
    """Or the test above would prove nothing."""
    left, _ = await run(range(1, 1 + 16 * len(PLACES)))
    assert {place for place in (*PLACES, LONG) if not left[place]} == set()


async def test_what_holds_no_secret_still_leaves() -> None:
    async with houses(PIN) as (roads, recorders):
        for each in roads:
            case = of_turns(Message("system", "Bluebird tents."), ASK)
            asked = replace(case.question, pinned=Route.FRONTIER)
            assert (await each.ask(replace(case, question=asked))).text == "Héllo"
        assert sum(len(each.received) for each in recorders) >= len(roads)


async def test_a_pin_that_names_an_earlier_turn_holds_in_the_next() -> None:
    """The whole conversation would go out with the second question."""
    talk = (
        Message("user", "Project Bluebird: we buy the competitor."),
        Message("assistant", "Understood."),
        Message("user", "What will the other bidders do?"),
    )
    asked = Question(talk, "default", pinned=Route.FRONTIER)
    async with houses({**PIN, "matches": r"\bbluebird\b"}) as (roads, recorders):
        for each in roads:
            with pytest.raises(RoadBarred):
                await each.ask(Case(asked))
        assert not any(each.received for each in recorders)
