"""The keywords of a JSON schema that matter here, of 2020-12 and of drafts before it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _compiles(pattern: str) -> str:
    """What Python does not know of ECMAScript's expressions is replaced by what is like it."""
    known = re.sub(r"\\[pP]\{[^}]*\}|\\u\{[0-9a-fA-F]+\}|\\c[A-Za-z]", r"\\w", pattern)
    try:
        re.compile(re.sub(r"\(\?<(?=[A-Za-z_$])", "(?P<", known))
    except (re.error, OverflowError, RecursionError):
        raise ValueError("is no regular expression") from None
    return pattern


def _ours(reference: str) -> str:
    if not reference.startswith("#"):
        raise ValueError(
            "is outside of the schema: copy what it names to $defs, and name #/$defs/…"
        )
    return reference


Count = Annotated[int, Field(ge=0, lt=2**63)]
Pattern = Annotated[str, AfterValidator(_compiles)]
Kind = Literal["object", "array", "string", "integer", "number", "boolean", "null"]


class Schema(BaseModel):
    """The keywords of a schema that say which values fit, and where its parts are."""

    model_config = ConfigDict(extra="allow", strict=True)

    ref: Annotated[str, AfterValidator(_ours)] | None = Field(None, alias="$ref")
    dynamic_ref: None = Field(None, alias="$dynamicRef")
    recursive_ref: None = Field(None, alias="$recursiveRef")
    anchor: str | None = Field(None, alias="$anchor")
    defs: dict[str, Schema | bool] = Field({}, alias="$defs")
    definitions: dict[str, Schema | bool] = {}
    type: Kind | list[Kind] | None = None
    enum: list[Any] | None = None
    const: Any = None
    all_of: list[Schema | bool] = Field([], alias="allOf")
    any_of: list[Schema | bool] | None = Field(None, alias="anyOf")
    one_of: list[Schema | bool] | None = Field(None, alias="oneOf")
    not_: Schema | bool | None = Field(None, alias="not")
    if_: Schema | bool | None = Field(None, alias="if")
    then: Schema | bool | None = None
    else_: Schema | bool | None = Field(None, alias="else")
    properties: dict[str, Schema | bool] = {}
    pattern_properties: dict[Pattern, Schema | bool] = Field({}, alias="patternProperties")
    additional_properties: Schema | bool | None = Field(None, alias="additionalProperties")
    property_names: Schema | bool | None = Field(None, alias="propertyNames")
    required: list[str] = []
    min_properties: Count = Field(0, alias="minProperties")
    max_properties: Count | None = Field(None, alias="maxProperties")
    prefix_items: list[Schema | bool] = Field([], alias="prefixItems")
    items: Schema | bool | list[Schema | bool] | None = None
    additional_items: Schema | bool | None = Field(None, alias="additionalItems")
    contains: Schema | bool | None = None
    min_contains: Count = Field(1, alias="minContains")
    min_items: Count = Field(0, alias="minItems")
    max_items: Count | None = Field(None, alias="maxItems")
    pattern: Pattern | None = None
    min_length: Count = Field(0, alias="minLength")
    max_length: Count | None = Field(None, alias="maxLength")
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | bool | None = Field(None, alias="exclusiveMinimum")
    exclusive_maximum: float | bool | None = Field(None, alias="exclusiveMaximum")
    multiple_of: Annotated[float, Field(gt=0)] | None = Field(None, alias="multipleOf")

    def parts(self) -> Iterator[Schema | bool]:
        """Every subschema in it, not those deeper in them."""
        for name in self.model_fields_set & _PARTS:
            match getattr(self, name):
                case dict() as many:
                    yield from many.values()
                case list() as many:
                    yield from (each for each in many if isinstance(each, Schema | bool))
                case Schema() as one:
                    yield one

    def follow(self, pointer: str) -> Schema | bool | None:
        """The subschema at a JSON pointer."""
        here: Any = self
        for token in pointer.split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~")
            match here:
                case Schema():
                    here = getattr(here, _ATTRIBUTES.get(name, ""), None)
                case dict():
                    here = here.get(name)
                case list() if name.isdigit() and int(name) < len(here):
                    here = here[int(name)]
                case _:
                    return None
        return here if isinstance(here, Schema | bool) else None


_ATTRIBUTES = {field.alias or name: name for name, field in Schema.model_fields.items()}
_PARTS = frozenset(
    name for name, field in Schema.model_fields.items() if "Schema" in str(field.annotation)
)
