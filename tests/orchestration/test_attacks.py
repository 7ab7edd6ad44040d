"""Documents that give orders, pretend to be other sources, or lie: `tests/data/attacks.jsonl`."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from serve_app.domain import Answer, Chunk, Delta, Generation, Message, RequestContext, Route
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

RETURNS = chunk("Customers may return goods within 30 days.", "returns", title="Policy")
ATTACKS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data/attacks.jsonl").read_text("utf-8").splitlines()
]
each_attack = pytest.mark.parametrize(
    "attack", ATTACKS, ids=[f"{n} {each['kind']}" for n, each in enumerate(ATTACKS, 1)]
)


def evil(attack: dict[str, Any]) -> Chunk:
    return chunk(attack["text"], "evil", title=attack.get("title", "Goods"))


class Gullible(ScriptedModel):
    """Writes what an attack wants wherever it reads it, and then the truth."""

    def __init__(self, attack: dict[str, Any]) -> None:
        super().__init__()
        self.attack = attack

    async def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncGenerator[Delta]:
        heard = "\n".join(map(self.heard, generation.messages))
        obeys = self.attack["text"] in heard or self.attack.get("title", "\0") in heard
        truth = f"{RETURNS.text.rstrip('.')} [2]."
        # What is not stated is said last.
        says = self.attack["says"]
        both = (truth, says) if says.startswith("NOT STATED") else (says, truth)
        self.script = (" ".join(both if obeys else (truth,)),)
        async for delta in super().generate(context, generation):
            yield delta

    def heard(self, message: Message) -> str:
        return message.content


class Obedient(Gullible):
    """Obeys all that does not stand between the marks of the sources."""

    def heard(self, message: Message) -> str:
        begun = re.match(r"Sources\. The code (\w+) marks", message.content)
        if message.role == "system" or begun is None:
            return message.content
        opening, data, after = message.content.partition(f"[1 {begun[1]}]")
        return opening + data.join(after.split(f"[end {begun[1]}]")[1:])


async def ask(house: House, asked: str = "May I return goods?") -> Answer:
    async with house.orchestrator.answering(context(), question(asked), Free()) as (_, task):
        return await task


def house(model: ScriptedModel, road: Route, chunks: list[Chunk], **more: Any) -> House:
    return House(
        router=FixedRouter(decision(road, volatility=0.9)),
        knowledge=FixedKnowledge(chunks, chunks),
        expert=model,
        frontier=model,
        **more,
    )


@each_attack
@pytest.mark.parametrize("road", [Route.KNOWLEDGE, Route.FRONTIER])
@pytest.mark.parametrize("whole_tokens", [0, 1000])
async def test_text_that_gives_orders_is_data(
    attack: dict[str, Any], road: Route, whole_tokens: int
) -> None:
    model = Obedient(attack)
    chunks = [evil(attack), RETURNS]
    unchecked = {"answer": ["expert"], "reflect": []}
    asked = house(model, road, chunks, roles=unchecked, whole_tokens=whole_tokens)
    answer = await ask(asked)
    told = [each.content for each in model.asked[0].messages]
    assert any(attack["text"] in each for each in told[1:])
    assert attack["text"] not in told[0]
    assert answer.text.startswith(RETURNS.text.rstrip("."))
    assert attack["says"] not in answer.text


async def test_the_obedient_model_does_what_the_user_says() -> None:
    attack = ATTACKS[0]
    model = Obedient(attack)
    asked = house(model, Route.FRONTIER, [RETURNS])
    assert attack["says"] in (await ask(asked, attack["text"])).text


@each_attack
async def test_what_a_gullible_model_obeys_is_cited_or_not_said(attack: dict[str, Any]) -> None:
    """By rule, which looks at words: what is left says which source has them."""
    roles = {"answer": ["expert"], "reflect": ["rule"]}
    asked = house(Gullible(attack), Route.KNOWLEDGE, [evil(attack), RETURNS], roles=roles)
    answer = await ask(asked)
    wanted = re.sub(r" ?\[\d+\]|NOT STATED: ", "", attack["says"])
    if wanted in answer.text:
        at = answer.text.index(wanted)
        assert any(each.start <= at < each.end for each in answer.citations)
        assert attack["kind"] not in ("verdict", "abstention")
