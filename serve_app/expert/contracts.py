"""What an adapter's output must be: a small YAML or JSON file beside its weights.

    kind: json_schema      schema: {…}
    kind: regex            pattern: …      named groups are its fields
    kind: markdown         template: …     slots: {…}
    kind: any_of           contracts: {report: {kind: …}, reply: {kind: …}}

Each may also say `avoid` (words that must not occur) and `max_words`. The engine enforces what it
can (`structured`), and `violations` says what is left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from serve_app.errors import SettingsError
from serve_app.expert.slots import Section, enforceable, unnamed
from serve_app.expert.templates import Fields, Template
from serve_app.json_schema import check
from serve_app.plain_data import yaml_text

MOST_BYTES = 256 * 1024


class Contract(Protocol):
    """What every kind offers."""

    @property
    def structured(self) -> dict[str, Any] | None:
        """vLLM's `structured_outputs`, of its chat endpoint and of `StructuredOutputsParams` alike.

        `None`: the engine can enforce nothing of it.
        """
        ...

    @property
    def complete(self) -> bool:
        """Whether an answer that the engine was made to give, to its end, needs no check."""
        ...

    def violations(self, text: str) -> list[str]:
        """What is wrong, in plain words that a model can be told; empty when nothing is."""
        ...

    def fields(self, text: str) -> Fields:
        """The values in a text by path, such as `date` or `steps[0].owner`."""
        ...


class _House(Section):
    """What any kind may say besides."""

    avoid: tuple[str, ...] = ()
    max_words: int | None = Field(default=None, ge=1)

    @property
    def _unlimited(self) -> bool:
        return not self.avoid and self.max_words is None

    def _house(self, text: str) -> list[str]:
        lower = text.lower()
        found = [f"it must not contain “{each}”" for each in self.avoid if each.lower() in lower]
        words = len(text.split())
        if self.max_words and words > self.max_words:
            found.append(f"it has {words} words, and at most {self.max_words} are allowed")
        return found


class MarkdownContract(_House, Template):
    """A document by a template."""

    @property
    def structured(self) -> dict[str, Any] | None:
        return self.engine

    @property
    def complete(self) -> bool:
        return self._unlimited and super().complete

    def violations(self, text: str) -> list[str]:
        return super().violations(text) + self._house(text)


class RegexContract(_House):
    """A text by a regular expression; its named groups are its fields."""

    kind: Literal["regex"]
    pattern: str
    description: str = ""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        enforceable(value)
        return value

    @property
    def structured(self) -> dict[str, Any] | None:
        return {"regex": unnamed(self.pattern)} if enforceable(self.pattern) else None

    @property
    def complete(self) -> bool:
        return self._unlimited and self.structured is not None

    def violations(self, text: str) -> list[str]:
        found = [] if self._match(text) else [f"it must be {self.description or self.pattern}"]
        return found + self._house(text)

    def fields(self, text: str) -> Fields:
        match = self._match(text)
        return dict(match.groupdict()) if match else {}

    def _match(self, text: str) -> re.Match[str] | None:
        return re.fullmatch(self.pattern, text.rstrip(), re.ASCII)


class JsonContract(_House):
    """A JSON text by a schema."""

    kind: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")

    @field_validator("schema_")
    @classmethod
    def _valid(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            Draft202012Validator.check_schema(value)
        except SchemaError as error:
            raise ValueError(f"is no JSON schema: {error.message}") from None
        return check(value)

    @property
    def structured(self) -> dict[str, Any] | None:
        return {"json": self.schema_}

    @property
    def complete(self) -> bool:
        return self._unlimited and _plain(self.schema_)

    def violations(self, text: str) -> list[str]:
        try:
            value = json.loads(text)
        except ValueError as error:
            return [f"it must be JSON alone, and is not: {error}", *self._house(text)]
        errors = sorted(self._validator.iter_errors(value), key=lambda each: each.json_path)
        found = [f"{each.json_path.removeprefix('$.')}: {each.message}" for each in errors]
        return found + self._house(text)

    def fields(self, text: str) -> Fields:
        try:
            return dict(_leaves("", json.loads(text)))
        except ValueError:
            return {}

    @cached_property
    def _validator(self) -> Draft202012Validator:
        return Draft202012Validator(
            self.schema_, format_checker=Draft202012Validator.FORMAT_CHECKER
        )


Single = Annotated[MarkdownContract | RegexContract | JsonContract, Field(discriminator="kind")]


class AnyOf(Section):
    """One of several documents, whichever."""

    kind: Literal["any_of"]
    contracts: dict[str, Single] = Field(min_length=1)

    @property
    def structured(self) -> dict[str, Any] | None:
        each = [contract.structured for contract in self.contracts.values()]
        if all(one and "regex" in one for one in each):
            return {"regex": "|".join(f"(?:{one['regex']})" for one in each if one)}
        schemas = [one["json"] for one in each if one and "json" in one]
        # A reference is to the root of its schema, which would be another one then.
        if len(schemas) == len(each) and "$ref" not in json.dumps(schemas):
            return {"json": {"anyOf": schemas}}
        return None

    @property
    def complete(self) -> bool:
        return self.structured is not None and all(c.complete for c in self.contracts.values())

    def violations(self, text: str) -> list[str]:
        """Those of the document it comes nearest to."""
        name, found = self._nearest(text)
        return [f"as {name}: {each}" for each in found]

    def fields(self, text: str) -> Fields:
        return self.contracts[self._nearest(text)[0]].fields(text)

    def which(self, text: str) -> str | None:
        """The name of the document that a text is; `None` when it is none of them."""
        name, found = self._nearest(text)
        return None if found else name

    def _nearest(self, text: str) -> tuple[str, list[str]]:
        judged = [(name, each.violations(text)) for name, each in self.contracts.items()]
        return min(judged, key=lambda one: (bool(one[1]), -self._found(one[0], text), len(one[1])))

    def _found(self, name: str, text: str) -> int:
        return len(self.contracts[name].fields(text))


_ANY: TypeAdapter[Contract] = TypeAdapter(
    Annotated[MarkdownContract | RegexContract | JsonContract | AnyOf, Field(discriminator="kind")]
)


def parse(content: bytes, source: str) -> Contract:
    """A contract from a file's content.

    Raises:
        SettingsError: It is none; says where in `source`, and what is wrong.
    """
    if len(content) > MOST_BYTES:
        raise SettingsError(f"{source}: a contract has at most {MOST_BYTES:,} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{source}: neither YAML nor JSON: {error}") from None
    data = yaml_text(text, source)
    if not isinstance(data, dict):
        raise SettingsError(f"{source}: a contract is a mapping with a `kind`")
    try:
        return _ANY.validate_python(data)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False, include_input=False):
            place = ".".join(map(str, item["loc"])) or "contract"
            lines.append(f"{source}: {place}: {item['msg'].removeprefix('Value error, ')}")
        raise SettingsError("\n".join(lines)) from None


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case dict():
            for key, each in value.items():
                yield from _leaves(f"{path}.{key}" if path else str(key), each)
        case list():
            for number, each in enumerate(value):
                yield from _leaves(f"{path}[{number}]", each)
        case _:
            yield path, value


# What backends are known to follow to the letter; anything else is checked again.
_NAMES = {"type", "title", "description", "enum", "const", "required", "additionalProperties"}
_INSIDE = {"items", "additionalProperties"}
_MAPS = {"properties"}


def _plain(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return isinstance(schema, bool)
    if set(schema) - _NAMES - _INSIDE - _MAPS:
        return False
    inside = [schema[key] for key in _INSIDE & set(schema)]
    inside += [each for key in _MAPS & set(schema) for each in schema[key].values()]
    return all(map(_plain, inside))
