from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from serve_app.json_schema import MOST_DEPTH, check
from tests.fixtures import House
from tests.gateway.test_http import CHAT, refusal, send

OBJECT = {"type": "object"}
LIST: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"$ref": "#"}},
    "required": ["value"],
}

WITHOUT_A_VALUE: dict[str, dict[str, Any]] = {
    "requires itself": {**OBJECT, "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "is itself": {"$ref": "#"},
    "is itself by another": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    },
    "is itself by an anchor": {"$anchor": "me", "$ref": "#me"},
    "each of its choices": {"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}]},
    "requires itself by the other half": {
        "properties": {"a": {"$ref": "#"}},
        "allOf": [{"type": "object", "required": ["a"]}],
    },
    "an array that is never empty": {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
    "contains itself": {"type": "array", "contains": {"$ref": "#"}},
    "starts with itself": {"type": "array", "minItems": 1, "prefixItems": [{"$ref": "#"}]},
    "other properties are itself": {
        **OBJECT,
        "required": ["x"],
        "additionalProperties": {"$ref": "#"},
    },
    "nothing to choose": {"enum": []},
    "a choice of another type": {"type": "string", "enum": [1, None]},
    "types that exclude each other": {"allOf": [{"type": "string"}, {"type": "number"}]},
    "a property of two types": {
        "properties": {"a": {"type": "string"}},
        "allOf": [{"properties": {"a": {"type": "null"}}}],
        "required": ["a"],
        "type": "object",
    },
    "a fraction that is whole": {"type": "integer", "const": 0.5},
    "no items": {"type": "array", "minItems": 3, "maxItems": 1},
    "no text": {"type": "string", "minLength": 3, "maxLength": 1},
    "no number": {"type": "number", "minimum": 3, "maximum": 1},
    "no whole number": {"type": "integer", "minimum": 0.2, "maximum": 0.8},
    "no properties": {**OBJECT, "minProperties": 1, "additionalProperties": False},
    "more required than allowed": {**OBJECT, "required": ["a", "b"], "maxProperties": 1},
    "a forbidden property": {**OBJECT, "properties": {"a": False}, "required": ["a"]},
    "not anything": {"not": {}},
}

NO_SCHEMA: dict[str, tuple[dict[str, Any], str]] = {
    "dangling": ({"$ref": "#/$defs/none"}, "leads nowhere"),
    "dangling anchor": ({"$ref": "#none"}, "leads nowhere"),
    "to no schema": ({"$ref": "#/required", "required": ["a"]}, "leads nowhere"),
    "external": ({"$ref": "https://example.com/s.json"}, "$defs"),
    "external file": ({"items": {"$ref": "other.json#/x"}}, "$defs"),
    "type": ({"type": "text"}, "type"),
    "types": ({"type": [1]}, "type"),
    "required": ({"properties": {"a": {"required": True}}}, "properties/a/required"),
    "bound": ({"minItems": -1}, "minItems"),
    "bound without end": ({"minLength": 10**400}, "minLength"),
    "bound's type": ({"minimum": "1"}, "minimum"),
    "pattern": ({"pattern": "("}, "regular expression"),
    "pattern of names": ({"patternProperties": {"[": {}}}, "regular expression"),
    "properties": ({"properties": []}, "properties"),
    "a property": ({"properties": {"a": "string"}}, "properties/a"),
    "choices": ({"anyOf": {}}, "anyOf"),
    "null": ({"properties": None}, "properties"),
}

FINE: dict[str, dict[str, Any]] = {
    "empty": {},
    "a list": LIST,
    "a tree": {**OBJECT, "properties": {"all": {"type": "array", "items": {"$ref": "#"}}}},
    "a tree that is required": {
        **OBJECT,
        "properties": {"all": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["all"],
    },
    "or null": {
        **OBJECT,
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    },
    "expression": {
        "anyOf": [{"type": "number"}, {"$ref": "#/$defs/sum"}],
        "$defs": {
            "sum": {**OBJECT, "properties": {"of": {"$ref": "#"}}, "required": ["of"]},
        },
    },
    "old": {"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "string"}}},
    "to a property": {
        **OBJECT,
        "properties": {"a": {"type": "string"}, "b": {"$ref": "#/properties/a"}},
        "required": ["b"],
    },
    "an endless part that nobody needs": {
        **OBJECT,
        "properties": {"a": {"$ref": "#/$defs/endless"}},
        "$defs": {"endless": {"$ref": "#/$defs/endless"}},
    },
    "expressions of ECMAScript": {"pattern": r"^\p{L}+(?<year>\d{4})\/\u{1F600}$"},
    "names that are keywords": {
        **OBJECT,
        "properties": {"$ref": {"type": "string"}, "type": {"enum": [1]}, "not": {}},
        "required": ["$ref", "type", "not"],
    },
    "not something": {"not": {"format": "date"}},
    "items of old": {"items": [{"type": "string"}], "additionalItems": False},
    "a format": {"type": "string", "format": "date-time", "title": "t", "x-mine": {"enum": []}},
    "bounds of draft 4": {"type": "number", "minimum": 1, "exclusiveMinimum": True},
}


@pytest.mark.parametrize("name", WITHOUT_A_VALUE)
def test_a_schema_without_a_finite_value_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no finite value"):
        check(WITHOUT_A_VALUE[name])


@pytest.mark.parametrize("name", NO_SCHEMA)
def test_what_is_no_schema_is_refused_with_its_place(name: str) -> None:
    schema, told = NO_SCHEMA[name]
    with pytest.raises(ValueError) as caught:
        check(schema)
    assert told in str(caught.value)


@pytest.mark.parametrize("name", FINE)
def test_a_schema_with_a_value_passes(name: str) -> None:
    assert check(FINE[name]) is FINE[name]


KINDS = ["object", "array", "string", "integer", "number", "boolean", "null"]
REFERENCES = st.sampled_from(["#", "#/$defs/a", "#/$defs/b"]).map(lambda ref: {"$ref": ref})


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    small = st.integers(0, 3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(KINDS),
            "properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
            "required": st.lists(st.sampled_from("ab"), max_size=2, unique=True),
            "additionalProperties": inner,
            "items": inner,
            "minItems": small,
            "maxItems": small,
            "minLength": small,
            "maxLength": small,
            "minimum": small,
            "maximum": small,
            "exclusiveMinimum": small,
            "minProperties": small,
            "maxProperties": small,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "contains": inner,
            "not": inner,
            "enum": st.lists(st.sampled_from([0, 1.5, "a", None, True, {}, []]), max_size=3),
        },
    )


SCHEMAS = st.recursive(st.booleans() | st.just({}) | REFERENCES, combined, max_leaves=6)
VALUES = st.recursive(
    st.sampled_from([None, True, 0, 1, 2, 1.5, "", "a", "aaa"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=5,
)


@given(combined(SCHEMAS), SCHEMAS, SCHEMAS, st.lists(VALUES, min_size=1, max_size=20))
def test_what_some_value_fits_is_never_refused(
    schema: dict[str, Any], a: Any, b: Any, values: list[Any]
) -> None:
    whole = {**schema, "$defs": {"a": a, "b": b}}
    validator = Draft202012Validator(whole)
    try:
        fits = any(validator.is_valid(value) for value in values)
    except RecursionError:
        return  # it names itself without taking anything off the value
    if fits:
        assert check(whole) is whole


def chain(length: int) -> dict[str, Any]:
    links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": {"type": "string"}}}


LARGE = {
    "a chain": chain(2000),
    "a chain backwards": {**chain(2000), "$defs": dict(reversed(chain(2000)["$defs"].items()))},
    "a circle": {"$defs": {**chain(2000)["$defs"], "d2000": {"$ref": "#/$defs/d0"}}},
    "all of many": {"allOf": [{"required": [f"p{i}" for i in range(2000)]}] * 2000},
    "all properties": {
        **OBJECT,
        "properties": {f"p{i}": {"type": "string"} for i in range(4000)},
        "required": [f"p{i}" for i in range(4000)],
    },
    "too many": {**OBJECT, "properties": {f"p{i}": {} for i in range(50_000)}},
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_schema_is_checked_in_no_time(name: str) -> None:
    small = ("a chain", "a chain backwards", "a circle", "all properties")
    began = time.process_time()
    with contextlib.nullcontext() if name in small else pytest.raises(ValueError):
        check(LARGE[name])
    assert time.process_time() - began < 2


def test_a_schema_that_is_too_deep_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(MOST_DEPTH - 1):
        schema = {"items": schema}
    assert check(schema)
    with pytest.raises(ValueError, match="deep"):
        check({"items": {"items": schema}})


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize("name", ["requires itself", "is itself", "nothing to choose"])
@pytest.mark.parametrize("model", ["trivium/auto", "trivium/expert", "trivium/frontier"])
async def test_an_endless_schema_is_refused_by_name_before_any_model(model: str, name: str) -> None:
    house = House()
    schema = WITHOUT_A_VALUE[name]
    ask = [{"role": "user", "content": "Give me an object."}]
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body: dict[str, Any] = {"model": model, "messages": ask, "response_format": form}
    error = refusal(await send(house, "POST", CHAT, json=body), 400, "invalid_value")
    assert error["param"] == "response_format.json_schema.schema"
    if model != "trivium/expert":
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        body = {"model": model, "messages": ask, "tools": [tool]}
        error = refusal(await send(house, "POST", CHAT, json=body), 400, "invalid_value")
        assert error["param"] == "tools[0].function.parameters"
    assert house.expert.asked == house.frontier.asked == []
