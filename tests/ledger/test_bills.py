"""What a call may take is known before it; what its provider says it took is what is booked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain import Delta, Generation, Image, Lost, Message, ToolCall, Usage
from serve_app.errors import BudgetExceeded
from serve_app.ledger.bills import Bill
from tests.fixtures import FRONTIER, prices

ASKED = Generation((Message("user", "Why is the sky blue?"),), max_tokens=5000)


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def bill(clock: Clock | None = None, *, metered: bool = True) -> Bill:
    return Bill(ASKED, ["large"], metered=metered, clock=clock or Clock())


def test_a_prompt_is_held_for_by_its_bytes_and_an_answer_by_its_bound() -> None:
    # 20 bytes, 16 for what a template puts around a message, 128 around them all.
    assert bill().bound == Usage(164, 5000)


@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_a_real_tokenizer_makes_no_more_tokens_than_the_bound(
    tokenizer: Any, texts: list[str]
) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    tokens = len(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    bound = Bill(Generation(tuple(Message("user", text) for text in texts), 1)).bound
    assert tokens <= bound.prompt_tokens


def test_tools_and_pictures_are_within_the_bound() -> None:
    call = ToolCall(0, "call_1", "weather", '{"city": "Bergen"}' * 100)
    plain, asked = bill().bound.prompt_tokens, ASKED.messages[0]
    called = replace(ASKED, messages=(asked, Message("assistant", "", tool_calls=(call,))))
    offered = replace(ASKED, options={"tools": [{"function": {"description": "word " * 1000}}]})
    picture = Image("https://example.com/a.png")
    shown = replace(ASKED, messages=(replace(asked, parts=(asked.content, picture)),))
    assert Bill(called).bound.prompt_tokens >= plain + 1800
    assert Bill(offered).bound.prompt_tokens >= plain + 5000
    # Nobody knows how large it is: GPT-4o mini would count 2,833 + 8 x 5,667 at most.
    assert Bill(shown).bound.prompt_tokens >= plain + 48_169


@pytest.mark.parametrize(
    "options", [{"response_format": {"type": "json_object"}}, {"tools": [{"function": {}}]}]
)
def test_what_a_provider_adds_for_tools_is_within_the_bound(options: dict[str, Any]) -> None:
    made = Bill(Generation((Message("user", "JSON!"),), 50, options), ["large"], metered=True)
    made.note(Delta("{}", "stop", Usage(530 + 60, 3)))
    assert not made.overclaimed


def test_an_answer_shorter_than_a_provider_takes_is_held_for() -> None:
    # OpenAI's Responses is asked for 16 tokens at least; a model that thinks takes them all.
    made = Bill(Generation((Message("user", "hi"),), 1), ["large"], metered=True)
    made.note(Delta(finish_reason="length", usage=Usage(8, 16)))
    assert not made.overclaimed


def test_what_a_model_writes_into_calls_is_counted() -> None:
    made = bill()
    made.note(Delta(tool_calls=(ToolCall(0, "call_1", "weather", "{}"),)))
    assert made.usage.completion_tokens >= 1


sane = st.integers(0, 10**12)


@given(sane, sane, sane, sane)
def test_what_a_provider_claims_is_what_is_booked(
    prompt: int, completion: int, cached: int, reasoning: int
) -> None:
    made = bill()
    made.note(Delta("x", "stop", Usage(prompt, completion, cached, reasoning)))
    told = made.usage
    assert (told.prompt_tokens, told.completion_tokens) == (prompt, completion)
    assert told.cached_tokens == min(cached, prompt)
    assert told.reasoning_tokens == min(reasoning, completion)
    assert made.overclaimed == (prompt > 164 or completion > 5000)
    assert not made.estimated
    # It fits into the ledger's columns, which have 63 bits.
    assert 0 <= prices().nanos(FRONTIER, told) < 2**63 // 8


garbage: Any = st.one_of(
    st.integers(max_value=-1),
    st.integers(min_value=2**53),
    st.booleans(),
    st.text(max_size=3),
    st.floats(),
    st.none(),
)


@given(st.permutations([1, 2]), garbage)
def test_garbage_is_no_claim_and_is_estimated(order: list[int], wrong: Any) -> None:
    made = bill(metered=False)
    counts = [wrong if each == 1 else 7 for each in order]
    made.note(Delta("word " * 8, "stop", Usage(*counts)))
    assert made.estimated
    assert made.usage == Usage(5, 10)
    assert not made.overclaimed


def test_an_answer_without_a_word_and_without_a_count_is_not_free() -> None:
    made = bill()
    made.note(Delta(finish_reason="length"))
    assert made.estimated
    assert made.usage.prompt_tokens == 5


def test_who_leaves_a_model_that_thinks_pays_for_the_time_it_had() -> None:
    clock = Clock()
    made = bill(clock)
    clock.now += 8
    made.leave()
    assert made.usage == Usage(5, 2000, 0, 2000)
    assert made.estimated


def test_nobody_pays_for_more_thoughts_than_the_answer_may_have() -> None:
    clock = Clock()
    made = bill(clock)
    clock.now += 3600
    made.leave()
    assert made.usage == Usage(5, 5000, 0, 5000)


def test_thoughts_before_the_first_word_are_paid_for_too() -> None:
    clock = Clock()
    made = bill(clock)
    clock.now += 4
    made.note(Delta("Because"))
    clock.now += 4
    made.note(Delta(" of"))
    made.leave()
    assert made.usage == Usage(5, 1002, 0, 1000)


def test_our_own_models_send_no_bill_for_silence() -> None:
    clock = Clock()
    made = bill(clock, metered=False)
    clock.now += 8
    made.leave()
    assert made.usage == Usage(5, 0)


async def test_each_lost_try_is_counted_and_the_next_one_begins_anew() -> None:
    clock = Clock()
    made = bill(clock)
    first = made.id
    clock.now += 2
    await made.lose([Lost("large", again=True)])
    assert made.lost == [("large", Usage(5, 500, 0, 500))]
    assert made.id != first
    assert made.usage == Usage()
    clock.now += 1
    made.note(Delta("x", "stop", Usage(20, 7), model="small"))
    assert (made.model, made.usage) == ("small", Usage(20, 7))
    await made.lose([Lost("large", again=False)])
    assert len(made.lost) == 1


async def test_a_try_that_none_may_follow_is_counted_once() -> None:
    made = bill()

    async def refused() -> None:
        raise BudgetExceeded("nothing is left for another try")

    made.again = refused
    with pytest.raises(BudgetExceeded):
        await made.lose([Lost("large", again=True)])
    assert (made.lost, made.estimated) == ([], True)


@pytest.mark.parametrize("end", [Bill.leave, lambda made: made.note(Delta(finish_reason="stop"))])
def test_nobody_pays_for_the_time_after_a_call(end: Callable[[Bill], None]) -> None:
    clock = Clock()
    made = bill(clock)
    clock.now += 2
    end(made)
    took = made.usage
    clock.now += 60
    assert made.usage == took == Usage(5, 500, 0, 500)


@pytest.mark.parametrize("delta", [Delta("x", usage=Usage(1, 5001)), Delta("w" * 160_001)])
def test_an_answer_beyond_its_bound_is_overdrawn(delta: Delta) -> None:
    made = bill()
    made.note(delta)
    assert made.overdrawn
