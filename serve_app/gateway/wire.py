"""Rules that hold for every request body: null is absent, nothing is coerced, all of it is JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from serve_app.errors import InvalidRequest
from serve_app.retrieval import admission

Place = tuple[str | int, ...]


class Wire(BaseModel):
    """Base of everything in a request body.

    A field that may be left out may be null as well, and means the same. Values have the type that
    the schema says: the text "10" is no number, and 1 is not true.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    optional: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.optional = frozenset(
            field.alias or name
            for name, field in cls.model_fields.items()
            if not field.is_required()
        )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {k: v for k, v in data.items() if v is not None or k not in cls.optional}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The OpenAPI document says of the same fields that they may be null."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name, field in schema.get("properties", {}).items():
            alternatives = field.get("anyOf", [])
            if name in cls.optional and {"type": "null"} not in alternatives:
                said = {k: field.pop(k) for k in ("title", "description", "default") if k in field}
                schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **said}
        return schema


class Body(Wire):
    """Base of every request body."""

    @model_validator(mode="before")
    @classmethod
    def _is_json(cls, data: Any) -> Any:
        """Python's parser takes NaN, 1e999 and halves of surrogate pairs for JSON."""
        if not isinstance(data, dict | list):
            return data  # no body at all, which the model says itself
        try:
            json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
        except RecursionError:
            raise InvalidRequest("the body is nested too deeply") from None
        except ValueError:
            for place, problem in _no_json(data):
                raise InvalidRequest(
                    f"{path(place) or 'the body'}: {problem}", param=path(place) or None
                ) from None
        return data


def _no_json(data: Any) -> Iterator[tuple[Place, str]]:
    """Where a body is no JSON, and why, in its order."""
    stack: list[tuple[Place, Any]] = [((), data)]
    while stack:
        place, value = stack.pop()
        match value:
            case float() if not math.isfinite(value):
                yield place, "NaN and infinity are no numbers of JSON; send a finite one or null"
            case str() if _halved(value):
                yield place, "a text holds half of a surrogate pair, which is no character"
            case dict():
                if any(isinstance(key, str) and _halved(key) for key in value):
                    yield place, "a name holds half of a surrogate pair, which is no character"
                stack += [((*place, key), each) for key, each in reversed(value.items())]
            case list():
                stack += [((*place, i), each) for i, each in reversed(list(enumerate(value)))]


def _halved(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def path(place: Sequence[str | int]) -> str:
    """As a caller writes it: `messages[0].role`."""
    told = ""
    for part in place:
        if isinstance(part, int):
            told += f"[{part}]"
        else:
            told += f".{part}" if told else part
    return told


def located(place: Sequence[str | int], body: Any, *, missing: bool) -> str:
    """The path of an error of pydantic's in a body.

    Between names pydantic puts the tags of union members, which no caller knows: they are what is
    no part of the body, but for the last name where the error is that it is missing.
    """
    kept: list[str | int] = []
    for number, part in enumerate(place):
        known = body if isinstance(body, dict) else range(len(body) if type(body) is list else 0)
        if part in known:
            body = body[part]
        elif not (missing and number == len(place) - 1):
            continue
        kept.append(part)
    return path(kept)


def _integral(value: Any) -> Any:
    """JSON has one kind of number: 10.0 is 10."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _instant(value: Any) -> Any:
    if not isinstance(value, str) or "-" not in value:
        raise ValueError("must be a time in ISO 8601 with its zone, as in 2026-01-31T12:00:00Z")
    return value


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise ValueError("must be a text, a number, true or false")
    if not isinstance(value, str) and (problem := admission.number_problem(value)):
        raise ValueError(problem)
    return value


def _field(name: str) -> str:
    if problem := admission.name_problem(name):
        raise ValueError(problem)
    return name


def unless_empty(default: int) -> BeforeValidator:
    """A parameter of a URL that is there without a value is as one that is not there."""
    return BeforeValidator(lambda value: default if value == "" else value)


Whole = Annotated[int, BeforeValidator(_integral)]
Instant = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_instant)]
MetadataName = Annotated[str, AfterValidator(_field)]
Scalar = Annotated[
    str | int | float | bool,
    PlainValidator(_scalar),
    WithJsonSchema({"type": ["string", "number", "boolean"]}),
]
