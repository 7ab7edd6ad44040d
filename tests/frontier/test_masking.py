"""Nothing that the rules know leaves the house; everything is there again in the answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import linear
from serve_app.domain import Delta, Generation, Image, Message, ToolCall
from serve_app.errors import RoadBarred, SettingsError
from serve_app.frontier.masking import Masked, Masker, Restored
from serve_app.settings import MaskSettings, from_args

MAIL, PHONE, IBAN = "ann.o'neil+x@example.co.uk", "+47 22 33 44 55", "NO93 8601 1117 947"
CARD, KEY = "4111 1111 1111 1111", "sk-proj-abcdefghij0123456789"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIE\nabc=\n-----END PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4"
SETTINGS = MaskSettings(patterns={"ORDER": r"\bHR-\d{6}\b"})
MASKER = Masker.of(SETTINGS)


def masked(text: str) -> str:
    return MASKER.begin([text]).mask(text)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Mail ann@example.com, please", "Mail <EMAIL_1>, please"),
        ("ann@example.com bob@example.com ann@example.com", "<EMAIL_1> <EMAIL_2> <EMAIL_1>"),
        (f"Call {PHONE}.", "Call <PHONE_1>."),
        (f"to {IBAN} today", "to <IBAN_1> today"),
        (f"card {CARD}, thanks", "card <CARD_1>, thanks"),
        (f"key={KEY}", "key=<SECRET_1>"),
        (PEM, "<SECRET_1>"),
        (f"Bearer {JWT}", "Bearer <SECRET_1>"),
        ("order HR-409895 is late", "order <ORDER_1> is late"),
        ("DE89 3704 0044 0532 0130 00 BIC COBADEFFXXX", "<IBAN_1> BIC COBADEFFXXX"),
        ("DE89370400440532013000 EUR 500", "<IBAN_1> EUR 500"),
        ("4111 1111 1111 1111 12/27", "<CARD_1> 12/27"),
        ("4111111111111111 123", "<CARD_1> 123"),
        ("12345 4111 1111 1111 1111", "12345 <CARD_1>"),
        ("AB12 DE89 3704 0044 0532 0130 00", "AB12 <IBAN_1>"),
    ],
)
def test_what_the_rules_know_is_masked(text: str, seen: str) -> None:
    assert masked(text) == seen


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112 is no card, NO93 8601 1117 948 no account",
        "EUR 12,345.00 on 2026-11-25 at 14:30, order 409895, version 3.11.7",
        "user@host is no address on the net; a < b and c > d; <EMAIL_1>",
        "sk-short and skip-to-the-very-next-section-now",
        "",
    ],
)
def test_and_nothing_else(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize("value", ["ann@example.com", PHONE, IBAN, CARD, KEY, JWT, "HR-409895"])
@pytest.mark.parametrize("before", ["to\n", "to\t", "to\r\n", "til Å", 'a "', "a\\b ", "C:\\"])
def test_in_json_it_is_masked_after_an_escape_too(before: str, value: str) -> None:
    """As clients write the arguments and results of tools, also within each other."""
    for text in (inner := json.dumps([f"{before}{value}"]), json.dumps({"said": inner})):
        seen = masked(text)
        assert value not in seen
        left = json.loads(seen)
        said = left[0] if isinstance(left, list) else json.loads(left["said"])[0]
        assert re.fullmatch(re.escape(before) + r"<[A-Z]+_1>", said)


def test_expression_of_an_operator_may_name_a_backslash() -> None:
    masker = Masker.of(MaskSettings(patterns={"USER": r"CORP\\\w+"}))
    assert masker.begin([]).mask(r"CORP\tom is back") == "<USER_1> is back"


FAST = 4_000, 32_000  # characters: small, and eight times as many


@pytest.mark.parametrize("text", linear.TEXTS)
@pytest.mark.parametrize("function", linear.FUNCTIONS)
def test_no_text_costs_more_than_in_proportion(function: Any, text: str) -> None:
    """Of eight times the text, 8 is linear and 64 is quadratic."""
    tries = (linear.growth(linear.measured(function, linear.TEXTS[text], FAST)) for _ in range(3))
    assert any(each < 24 for each in tries)


async def test_a_long_text_leaves_the_event_loop_to_others() -> None:
    async def echo(generation: Generation) -> AsyncGenerator[Delta]:
        yield Delta("ok", "stop")

    async def answer() -> str:
        text = linear.TEXTS["single digits"](100_000)
        return "".join([d.text async for d in Masked(echo, SETTINGS).generate(_asked(text))])

    task, turns = asyncio.create_task(answer()), 0
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    assert await task == "ok"
    assert turns > 50


def test_each_of_very_many_numbers_is_masked() -> None:
    """The library alone gives up after 65,535 that only look like one."""
    text = "+1 2, " * 70_000 + f"and {PHONE}"
    assert masked(text).endswith(" and <PHONE_1>")


@pytest.mark.parametrize("before", range(4080, 4100))
def test_numbers_are_masked_where_ever_they_stand(before: int) -> None:
    assert masked("x" * (before - 1) + f" {PHONE} y") == "x" * (before - 1) + " <PHONE_1> y"


def test_a_key_ends_at_its_own_end() -> None:
    end = "-----END PRIVATE KEY-----"
    assert masked(f"{PEM} and {PEM}!") == "<SECRET_1> and <SECRET_1>!"
    assert masked(f"{end} {PEM} {end}") == f"{end} <SECRET_1> {end}"
    far = "-----BEGIN PRIVATE KEY-----" + "x" * 30_000
    assert masked(f"{far} {PEM}") == f"{far} <SECRET_1>"


async def test_a_rule_that_takes_too_long_lets_nothing_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[Generation] = []

    async def answer(generation: Generation) -> AsyncGenerator[Delta]:
        asked.append(generation)
        yield Delta("ok", "stop")

    slow = MaskSettings(patterns={"SLOW": r"(\w+\s?)*(x+x+)+y"})
    with pytest.raises(RoadBarred):
        async for _ in Masked(answer, slow).generate(_asked("xx" * 5000)):
            pass
    assert asked == []
    assert "SLOW" in caplog.text


def test_a_placeholder_of_the_callers_own_is_not_taken_for_ours() -> None:
    masks = MASKER.begin(["<EMAIL_1> or ann@example.com"])
    assert masks.mask("<EMAIL_1> or ann@example.com") == "<EMAIL_1> or <EMAIL_2>"
    assert Restored(masks).piece("<EMAIL_1>, <EMAIL_2>") == "<EMAIL_1>, ann@example.com"


def test_numbers_of_a_country_are_known_where_it_is_named() -> None:
    assert masked("Ring 22 33 44 55") == "Ring 22 33 44 55"
    norwegian = Masker.of(MaskSettings(phone_region="NO"))
    assert norwegian.begin([]).mask("Ring 22 33 44 55") == "Ring <PHONE_1>"


VALUES = st.sampled_from([MAIL, PHONE, IBAN, CARD, KEY, PEM, JWT, "HR-409895", "<EMAIL_1>"])
WORDS = st.text(alphabet="ab <>_EMAIL\n.", max_size=12)
TEXTS = st.lists(st.one_of(VALUES.map(lambda v: f" {v} "), WORDS), max_size=8).map("".join)


@given(TEXTS, st.lists(st.integers(1, 9), min_size=1, max_size=5))
async def test_an_answer_says_what_was_masked_however_it_is_cut(
    text: str, sizes: list[int]
) -> None:
    seen: list[str] = []

    async def echo(generation: Generation) -> AsyncGenerator[Delta]:
        said = generation.messages[0].content
        seen.append(said)
        cursor = 0
        while cursor < len(said):
            size = sizes[cursor % len(sizes)]
            yield Delta(said[cursor : cursor + size])
            cursor += size
        yield Delta(finish_reason="stop")

    provider = Masked(echo, SETTINGS)
    pieces = [delta.text async for delta in provider.generate(_asked(text))]
    assert "".join(pieces) == text
    assert not any(f" {value} " in seen[0] for value in (KEY, PEM, JWT, "HR-409895"))


def test_masks_do_not_show_what_they_hide() -> None:
    masks = MASKER.begin([])
    masks.mask(f"{KEY} ann@example.com")
    assert "ann" not in repr(masks)
    assert KEY not in repr(masks)


@pytest.mark.parametrize("patterns", [{"order": "x"}, {"ORDER": "("}])
def test_a_rule_that_cannot_be_is_named(patterns: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="patterns"):
        from_args({"frontier": {"mask": {"patterns": patterns}}})


def _asked(text: str) -> Generation:
    return Generation((Message("user", text),), 100)


async def test_nothing_leaves_in_the_options_either() -> None:
    seen: list[Generation] = []

    async def answer(generation: Generation) -> AsyncGenerator[Delta]:
        seen.append(generation)
        yield Delta("to <EMAIL_1>")
        yield Delta(finish_reason="stop")

    schema = {"type": "object", "description": "from ann@example.com", "enum": ["bob@corp.com"]}
    options = {"stop": ["bob@corp.com"], "temperature": 0.5, "response_format": schema}
    asked = Generation((Message("user", "ann@example.com"),), 100, options)
    pieces = [delta.text async for delta in Masked(answer, SETTINGS).generate(asked)]
    assert "".join(pieces) == "to ann@example.com"
    assert "@" not in str(seen[0].options)
    assert seen[0].options["temperature"] == 0.5


@pytest.mark.parametrize("size", [1, 3, 200])
async def test_calls_of_tools_are_masked_and_restored_as_json(size: int) -> None:
    """A secret with line breaks is JSON again in the arguments, however they are cut."""
    seen: list[Generation] = []

    async def answer(generation: Generation) -> AsyncGenerator[Delta]:
        seen.append(generation)
        told = '{"to": "<EMAIL_1>", "key": "<SECRET_1>"}'
        for cursor in range(0, len(told), size):
            piece = ToolCall(0, "", "", told[cursor : cursor + size])
            yield Delta(tool_calls=(piece, replace(piece, index=1)))
        yield Delta(finish_reason="tool_calls")

    before = ToolCall(0, "call_1", "send", json.dumps({"to": "ann@example.com"}))
    picture = Image("https://example.com/ann@example.com.png")
    asked = Generation(
        (
            Message("user", f"it is {PEM}", (f"it is {PEM}", picture)),
            Message("assistant", "", tool_calls=(before,)),
            Message("tool", "sent to ann@example.com", tool_call_id="call_1"),
        ),
        100,
    )
    calls: dict[int, str] = {0: "", 1: ""}
    async for delta in Masked(answer, SETTINGS).generate(asked):
        for call in delta.tool_calls:
            calls[call.index] += call.arguments
    wanted = {"to": "ann@example.com", "key": PEM}
    assert [json.loads(each) for each in calls.values()] == [wanted, wanted]
    told = seen[0].messages
    assert told[0].parts == ("it is <SECRET_1>", picture)
    assert json.loads(told[1].tool_calls[0].arguments) == {"to": "<EMAIL_1>"}
    assert told[2].content == "sent to <EMAIL_1>"


async def test_in_an_answer_of_json_values_are_restored_as_json() -> None:
    async def answer(_: Generation) -> AsyncGenerator[Delta]:
        yield Delta('{"key": "<SECRET_1>"}', "stop")

    async def told(**options: Any) -> str:
        asked = Generation((Message("user", f"it is {PEM}"),), 100, options)
        return "".join([delta.text async for delta in Masked(answer, SETTINGS).generate(asked)])

    assert json.loads(await told(response_format={"type": "json_object"})) == {"key": PEM}
    assert await told(response_format={"type": "text"}) == f'{{"key": "{PEM}"}}'


def test_what_two_rules_find_in_part_is_masked_as_a_whole() -> None:
    masker = Masker.of(MaskSettings(patterns={"HOST": r"example\.com/\w+"}))
    assert masker.begin([]).mask("see ann@example.com/secret now") == "see <HOST_1> now"
