"""A pin's expression is found wherever a call would carry it, however it is written."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain import Generation, Image, Message, Route, ToolCall
from serve_app.pins import Pin, Pins, carried, find, readings

NEVER = frozenset({Route.FRONTIER})
PIN = Pin(name="projects", never=NEVER, matches=r"\bproject bluebird\b")
SECRET = "Project Bluebird"


def held(generation: Generation, pin: Pin = PIN) -> bool:
    return find([pin], carried(generation)) == {pin.name}


def asked(*messages: Message, **options: Any) -> Generation:
    return Generation(messages or (Message("user", "Hello"),), 10, options)


FUNCTION = {"name": "search", "description": "of bids"}
NAMED = ToolCall(0, "call_1", "search", json.dumps({"for": SECRET}))
PICTURE = Image("data:image/png;base64,iVBORw0KGgo=")
PLACES = {
    "first turn": asked(Message("user", f"{SECRET}: we buy."), Message("user", "And now?")),
    "system": asked(Message("system", f"You work on {SECRET}."), Message("user", "Hi")),
    "developer": asked(Message("developer", SECRET.upper()), Message("user", "Hi")),
    "assistant": asked(Message("assistant", f"{SECRET} is on."), Message("user", "Why?")),
    "tool result": asked(Message("tool", json.dumps({"on": f"a\n{SECRET}"}), tool_call_id="c")),
    "tool call": asked(Message("assistant", "", tool_calls=(NAMED,))),
    "tool description": asked(tools=[{"function": {**FUNCTION, "description": SECRET}}]),
    "a schema's field": asked(tools=[{"function": {"parameters": {"properties": {SECRET: {}}}}}]),
    "response format": asked(response_format={"json_schema": {"schema": {"enum": [SECRET]}}}),
    "stop": asked(stop=[SECRET]),
    "middle of a long text": asked(Message("user", "word " * 20_000 + SECRET + " word" * 20_000)),
    "beside a picture": asked(Message("user", "", ("It is", PICTURE, f"{SECRET}."))),
    "parts around a picture": asked(Message("user", "", ("Project", PICTURE, "Bluebird"))),
    "a part's middle": asked(Message("user", "", ("Project Blue", PICTURE, "bird"))),
    "a picture's address": asked(
        Message("user", "", (Image("https://a.example/project%20bluebird.png"),))
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_pin_holds_in_every_place(place: str) -> None:
    assert held(PLACES[place])


def test_pin_does_not_hold_for_what_is_not_there() -> None:
    texts = ("Project Bluebirds", "our blue bird project", "bluebird", "")
    assert not held(asked(*(Message("user", text) for text in texts), stop=["."], seed=7))


@pytest.mark.parametrize(
    "written",
    [
        "Project Blue\u200bbird",  # zero-width space
        "Project Blue\u00adbird",  # soft hyphen
        "P\u2060roject\u2060 B\ufeffluebird",
        "Project\u200b Bluebird\ufe0f",
        "Ｐｒｏｊｅｃｔ　Ｂｌｕｅｂｉｒｄ",
        "𝐏𝐫𝐨𝐣𝐞𝐜𝐭 𝐁𝐥𝐮𝐞𝐛𝐢𝐫𝐝",
        "PROJECT BLUEBIRD",
        "Project\u00a0Bluebird",
        "Project\n   Bluebird",
        "report.\\nProject Bluebird",
        "\\u0050roject Bluebird",
        "Project&nbsp;Blue&shy;bird",
        "&#80;roject &#x42;luebird",
        "https://intra.example/?q=Project%20Bluebird",
        '{"inner": "{\\\\"name\\\\": \\\\"\\\\\\\\nProject Bluebird\\\\"}"}',
    ],
)
def test_pin_holds_however_it_is_written(written: str) -> None:
    assert held(asked(Message("user", f"it is {written}, secret")))


@pytest.mark.parametrize(
    ("pin", "text"),
    [
        ("blåmeis", "BLA\u030aMEIS"),  # composed in one, decomposed in the other
        ("bla\u030ameis", "Blåmeis"),
        ("straße", "STRASSE"),
        (r"\bblåmeis\b", json.dumps("om Blåmeis")),  # as Python writes it
        (r"^confidential$", "CONFIDENTIAL"),
        (r"\b4711\b", "room 4711"),
    ],
)
def test_letters_beyond_ascii_are_found_in_every_form(pin: str, text: str) -> None:
    assert held(asked(Message("user", text)), Pin(name="p", never=NEVER, matches=pin))


def test_numbers_of_options_are_read() -> None:
    schema = {"enum": [4711], "minimum": 10**5000, "nullable": None, "strict": True}
    pin = Pin(name="p", never=NEVER, matches=r"\b4711\b")
    assert held(asked(response_format=schema), pin)
    assert not held(asked(seed=47110), pin)


@given(st.text(), st.text())
def test_to_read_a_text_otherwise_never_hides_what_is_written(before: str, after: str) -> None:
    text = f"{before} x1y2z3 {after}"
    assert readings(text)[0] == text
    assert held(asked(Message("user", text)), Pin(name="p", never=NEVER, matches="x1y2z3"))


@given(st.text(alphabet="Bluebird \\u0&#x;%2nt\u200b{}\"'\ud83d\ude00é\u0301", max_size=60))
def test_no_text_is_too_odd_to_be_read(text: str) -> None:
    assert all(isinstance(each, str) for each in readings(text))


def test_expression_that_takes_too_long_counts_as_found(caplog: pytest.LogCaptureFixture) -> None:
    pin = Pin(name="slow one", never=NEVER, matches=r"(\w+\s?)*(x+x+)+y")
    began = time.monotonic()
    assert held(asked(Message("user", "xx" * 5000)), pin)
    assert time.monotonic() - began < 10
    assert "slow one" in caplog.text
    assert "xxxx" not in caplog.text


def test_all_conditions_of_a_pin_must_hold() -> None:
    both = Pin(name="both", never=NEVER, intents=frozenset({"legal"}), matches="acme")
    assert both.holds({"both"}, ["both"])
    assert not both.holds({"both"}, [])
    assert not both.holds(set(), ["both"])
    # Nobody has looked at what is meant: it may be that.
    assert both.holds({"both"}, None)
    assert Pin(name="always", never=NEVER).holds(set(), [])


def test_pins_of_a_tenant_come_on_top_of_everybodys() -> None:
    own = Pin(name="own", never=frozenset({Route.KNOWLEDGE}))
    pins = Pins(everybody=(PIN,), tenants={"clinic": (own,)})
    assert [pin.name for pin in pins.of("clinic")] == ["projects", "own"]
    assert [pin.name for pin in pins.of("acme")] == ["projects"]
    assert pins.forbidding(Route.FRONTIER) == Pins(everybody=(PIN,))
