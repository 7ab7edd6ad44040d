"""Contracts: what fits has no violations, what was changed has, and the engine's pattern agrees."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import SettingsError
from serve_app.expert.contracts import AnyOf, Contract, parse

REPORT = {
    "kind": "markdown",
    "max_words": 350,
    "avoid": ["!", "Halden and Rowe"],
    "template": """
# Weekly report, week {week}, {team}

## Summary

{summary}

## Figures

| Measure | Now | Change |
|---|---|---|
{figures}

Spent: {spent}

## Risks

{risks}

## Next {{steps}}

{steps}
""",
    "slots": {
        "week": {"type": "integer", "min": 1, "max": 53},
        "summary": {"type": "paragraphs", "max_sentences": 3},
        "figures": {
            "type": "list",
            "item": "| {measure} | {now} | {change}% |",
            "slots": {
                "now": {"type": "integer", "thousands": True},
                "change": {"type": "number", "signed": True},
            },
        },
        "spent": "money",
        "risks": {
            "type": "list",
            "item": "- {level}: {risk}",
            "slots": {"level": {"type": "enum", "values": ["High", "Low", "Lowest"]}},
            "max": 3,
            "empty": "None this week.",
        },
        "steps": {
            "type": "list",
            "item": "- {step} ({owner}, {due})",
            "slots": {"due": "date"},
        },
    },
}

TICKET = {
    "kind": "json_schema",
    "schema": {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "urgent": {"type": "boolean"},
            "parts": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"sku": {"type": "string"}, "count": {"type": "integer"}},
                    "required": ["sku", "count"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["title", "urgent", "parts"],
        "additionalProperties": False,
    },
}


def contract(data: Any) -> Contract:
    return parse(yaml.safe_dump(data).encode(), "contract.yaml")


word = st.text("abcdefghijklmnopqrstuvwxyzäéß", min_size=1, max_size=8)
line = st.lists(word, min_size=1, max_size=5).map(" ".join)
date = st.dates(datetime.date(1990, 1, 1), datetime.date(2090, 1, 1))
cents = st.integers(-(10**9), 10**9).map(lambda n: n / 100)


@st.composite
def report(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A text made from the template, and what was put into it."""
    week, team, spent = draw(st.integers(1, 53)), draw(line), draw(cents)
    summary = "\n".join(draw(st.lists(line, min_size=1, max_size=4)))
    figure = st.tuples(line, st.integers(-(10**7), 10**7), st.integers(-999, 999))
    figures = draw(st.lists(figure, min_size=1, max_size=4))
    risks = draw(st.lists(st.tuples(st.sampled_from(["High", "Low", "Lowest"]), line), max_size=3))
    steps = draw(st.lists(st.tuples(line, word, date), min_size=1, max_size=3))
    fields: dict[str, Any] = {"week": week, "team": team, "summary": summary, "spent": spent}
    for n, (measure, now, change) in enumerate(figures):
        fields |= {f"figures[{n}].measure": measure, f"figures[{n}].now": now}
        fields[f"figures[{n}].change"] = change / 10
    for n, (level, risk) in enumerate(risks):
        fields |= {f"risks[{n}].level": level, f"risks[{n}].risk": risk}
    for n, (step, owner, due) in enumerate(steps):
        fields |= {f"steps[{n}].step": step, f"steps[{n}].owner": owner}
        fields[f"steps[{n}].due"] = due.isoformat()
    rows = "\n".join(f"| {m} | {now:,} | {change / 10:+.1f}% |" for m, now, change in figures)
    risky = "\n".join(f"- {level}: {risk}" for level, risk in risks) or "None this week."
    next_ = "\n".join(f"- {step} ({owner}, {due})" for step, owner, due in steps)
    text = (
        f"# Weekly report, week {week}, {team}\n\n## Summary\n\n{summary}\n\n## Figures\n\n"
        f"| Measure | Now | Change |\n|---|---|---|\n{rows}\n\nSpent: EUR {spent:,.2f}\n\n"
        f"## Risks\n\n{risky}\n\n## Next {{steps}}\n\n{next_}"
    )
    return text, fields


@given(report(), st.sampled_from(["", "\n", "  \n"]))
def test_what_is_made_from_the_template_is_right_and_read_back(
    made: tuple[str, dict[str, Any]], tail: str
) -> None:
    text, fields = made
    held = contract(REPORT)
    assert held.violations(text + tail) == []
    assert held.fields(text + tail) == fields
    assert held.structured is not None
    assert re.fullmatch(held.structured["regex"], text, re.ASCII)


MUTATIONS: dict[str, Callable[[str], str]] = {
    "heading lost": lambda text: text.replace("## Risks\n\n", ""),
    "heading renamed": lambda text: text.replace("## Figures", "## Numbers"),
    "level of heading": lambda text: text.replace("## Summary", "### Summary"),
    "sections swapped": lambda text: (
        text.replace("## Risks", "##\0")
        .replace("## Summary", "## Risks")
        .replace("##\0", "## Summary")
    ),
    "week of no year": lambda text: re.sub("week [0-9]+", "week 54", text),
    "no number": lambda text: re.sub("week [0-9]+", "week ten", text),
    "no date": lambda text: re.sub(r"\d{4}-\d\d-\d\d\)", "2026-02-30)", text),
    "other date": lambda text: re.sub(r"(\d{4})-(\d\d)-(\d\d)\)", r"\3.\2.\1)", text),
    "amount": lambda text: text.replace("Spent: EUR ", "Spent: €"),
    "too many risks": lambda text: re.sub(
        r"## Risks\n\n(.|\n)*?\n\n", "## Risks\n\n" + "- Low: x\n" * 4 + "\n", text
    ),
    "unknown level": lambda text: re.sub(
        r"## Risks\n\n(.|\n)*?\n\n", "## Risks\n\n- Huge: x\n\n", text
    ),
    "sentences": lambda text: text.replace("## Figures", "A b. C. D. E.\n\n## Figures"),
    "house style": lambda text: text.replace("## Summary\n\n", "## Summary\n\nWow! "),
    "something after it": lambda text: text + "\n\nI hope this helps.",
    "something before it": lambda text: "Here is the report:\n\n" + text,
    "too long": lambda text: text.replace("## Figures", "word " * 351 + "\n\n## Figures"),
    "nothing": lambda text: "",
}


@pytest.mark.parametrize("name", MUTATIONS)
@given(made=report())
@settings(max_examples=15)
def test_what_was_changed_is_wrong_and_says_what(
    name: str, made: tuple[str, dict[str, Any]]
) -> None:
    found = contract(REPORT).violations(MUTATIONS[name](made[0]))
    assert found
    assert all(each and "(?" not in each for each in found)


@given(st.text(max_size=200))
def test_any_text_can_be_judged(text: str) -> None:
    for data in (REPORT, TICKET):
        held = contract(data)
        assert isinstance(held.violations(text), list)
        assert isinstance(held.fields(text), dict)


def test_fields_of_a_text_that_leaves_the_template_are_those_in_their_place() -> None:
    text = (
        "Sure!\n\n# Weekly report, week 7, Web, shop\n\nSpent: EUR 1,200.00\n\n## Risks\n\n- Low: x"
    )
    assert contract(REPORT).fields(text) == {
        "week": 7,
        "team": "Web, shop",
        "spent": 1200.0,
        "risks[0].level": "Low",
        "risks[0].risk": "x",
    }


@given(report())
@settings(max_examples=10, deadline=None)
def test_engines_grammar_takes_what_the_template_takes(made: tuple[str, dict[str, Any]]) -> None:
    from xgrammar import Grammar
    from xgrammar.testing import _is_grammar_accept_string

    structured = contract(REPORT).structured
    assert structured is not None
    grammar = Grammar.from_regex(structured["regex"])
    assert _is_grammar_accept_string(grammar, made[0])
    assert not _is_grammar_accept_string(grammar, made[0].replace("## Risks", "## Dangers"))


tickets = st.fixed_dictionaries(
    {
        "title": line,
        "urgent": st.booleans(),
        "parts": st.lists(st.fixed_dictionaries({"sku": word, "count": st.integers(0, 99)})),
    }
)


@given(tickets)
def test_json_that_fits_the_schema_is_right_and_read_back(ticket: dict[str, Any]) -> None:
    held = contract(TICKET)
    text = json.dumps(ticket)
    assert held.violations(text) == []
    assert held.structured == {"json": TICKET["schema"]}
    fields = held.fields(text)
    assert fields["title"] == ticket["title"]
    assert sum(key.endswith(".count") for key in fields) == len(ticket["parts"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"title": "a", "urgent": true}', "'parts' is a required property"),
        ('{"title": 3, "urgent": true, "parts": []}', "title: 3 is not of type 'string'"),
        ('```json\n{"title": "a"}\n```', "must be JSON alone"),
        ('{"title": "a", "urgent": true, "parts": [{"sku": "x", "count": "2"}]}', "parts[0].count"),
    ],
)
def test_json_that_breaks_the_schema_says_where(text: str, named: str) -> None:
    assert any(named in each for each in contract(TICKET).violations(text))


def test_regular_expression_is_enforced_without_names_and_gives_fields_by_name() -> None:
    held = contract({"kind": "regex", "pattern": r"(?P<act>inform|request)\((?P<rest>[^)]*)\)"})
    assert held.structured == {"regex": r"(?:inform|request)\((?:[^)]*)\)"}
    assert held.complete
    assert held.fields("inform(name[x])") == {"act": "inform", "rest": "name[x]"}
    assert held.violations("tell(x)")


@pytest.mark.parametrize("pattern", [r"(?=a)ab", r"\bab", r"(a)\1", r"a*+b"])
def test_what_no_engine_can_follow_is_only_checked(pattern: str) -> None:
    held = contract({"kind": "regex", "pattern": pattern})
    assert held.structured is None
    assert not held.complete


def test_one_of_several_documents_is_told_apart() -> None:
    reply = {
        "kind": "markdown",
        "template": "Hello {name},\n\n{body}\n\nKind regards\n{agent}",
        "slots": {"body": "paragraphs"},
    }
    held = contract({"kind": "any_of", "contracts": {"report": REPORT, "reply": reply}})
    assert isinstance(held, AnyOf)
    text = "Hello Jo,\n\nIt left today.\n\nKind regards\nKim"
    assert held.which(text) == "reply"
    assert held.fields(text) == {"name": "Jo", "body": "It left today.", "agent": "Kim"}
    assert held.structured is not None
    assert re.fullmatch(held.structured["regex"], text, re.ASCII)
    assert held.violations(text.replace("Kind regards", "Bye")) == [
        "as reply: the line “Kind regards” is missing"
    ]
    assert held.which("Bye") is None


def test_documents_of_different_languages_are_only_checked() -> None:
    held = contract({"kind": "any_of", "contracts": {"report": REPORT, "ticket": TICKET}})
    assert held.structured is None
    both = contract({"kind": "any_of", "contracts": {"one": TICKET, "two": TICKET}})
    assert both.structured == {"json": {"anyOf": [TICKET["schema"]] * 2}}


@pytest.mark.parametrize(
    ("change", "complete"),
    [
        ({}, True),
        ({"slots": {"x": {"type": "text", "max_words": 5}}}, False),
        ({"slots": {"x": "date"}}, False),
        ({"slots": {"x": {"type": "list", "max": 40}}}, False),
        ({"slots": {"x": {"type": "list", "max": 4}}}, True),
        ({"avoid": ["!"]}, False),
    ],
)
def test_only_what_the_engine_enforces_to_the_letter_needs_no_check(
    change: dict[str, Any], complete: bool
) -> None:
    assert contract({"kind": "markdown", "template": "X: {x}", **change}).complete is complete


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("- a", "mapping with a `kind`"),
        ("kind: [", "contract.yaml:1"),
        ("kind: poem", "kind"),
        ("kind: markdown\ntemplate: no slot", "no slot"),
        ("kind: markdown\ntemplate: '{a} {a}'", "twice"),
        ("kind: markdown\ntemplate: '{a} {B}'", "neither a slot"),
        ("kind: markdown\ntemplate: '{a}'\nslots: {b: date}", "b is not in the template"),
        ("kind: markdown\ntemplate: '{a}'\nslots: {a: moon}", "slots.a"),
        ("kind: markdown\ntemplate: '{a}'\nslots: {a: {type: date, format: '%j'}}", "may use %Y"),
        ("kind: regex\npattern: '('", "not a regular expression"),
        ("kind: json_schema\nschema: {type: moon}", "no JSON schema"),
        ("kind: any_of\ncontracts: {}", "contracts"),
        ("kind: markdown\ntemplate: '{a}'\ncolour: red", "colour"),
    ],
)
def test_bad_contract_is_refused_with_its_place(content: str, named: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(named)) as refused:
        parse(content.encode(), "contract.yaml")
    assert refused.value.message.startswith("contract.yaml")
