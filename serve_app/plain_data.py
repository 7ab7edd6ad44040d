"""YAML and JSON that people write, read strictly: what could be meant in two ways is an error.

PyYAML and `json` keep the last of two equal keys and drop the other without a word. Here a key
given twice is an error that names both lines. So are keys that YAML reads as a number or a truth
value (`no:`), tags, values that are none of their type, and aliases that grow when they are
followed. A merge key (`<<`) works; a key beside it overrides what it brings.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import ConstructorError

from serve_app.errors import SettingsError

M = TypeVar("M", bound=BaseModel)

_MOST_NODES = 200_000  # once aliases are followed
_PREFIX = "tag:yaml.org,2002:"
_EQUALS, _MERGE, _TEXT = f"{_PREFIX}value", f"{_PREFIX}merge", f"{_PREFIX}str"
_TAGS = {f"{_PREFIX}{name}" for name in ("bool", "float", "int", "map", "null", "seq", "timestamp")}
_TAGS |= {_MERGE, _TEXT}


def yaml_file(path: Path, what: str = "") -> Any:
    """What a YAML file holds; None where it is empty.

    Args:
        what: What the file should be, for the message: `the policy `.

    Raises:
        SettingsError: The file cannot be read, or `yaml_text` refuses it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {what}cannot be read: {error}") from None
    return yaml_text(text, str(path))


def yaml_text(text: str, source: str) -> Any:
    """What a YAML text holds; None where it is empty.

    Raises:
        SettingsError: It is not YAML, or ambiguous; names `source` and the line.
    """
    found = _loaded(text, source)
    if len(found) > 1:
        raise SettingsError(f"{source}: holds several documents (`---`); keep one")
    return found[0] if found else None


def yaml_texts(text: str, source: str) -> list[Any]:
    """Every document of a YAML text, the empty ones as None.

    Raises:
        SettingsError: As `yaml_text`.
    """
    return _loaded(text, source)


def json_text(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: It is not JSON, or an object has a key twice.
    """
    return json.loads(text, object_pairs_hook=_pairs)


def line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """Line (from 1) of the deepest key of the path that a YAML text has."""
    node: yaml.Node | None = yaml.compose(text)
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == key), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            break
    return line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with an error where it would choose."""

    def construct_document(self, node: yaml.Node) -> Any:
        self._check(node, {})
        return super().construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # What PyYAML raises for `2024-13-45`. The value stays out: it may be a secret.
            kind = node.tag.removeprefix(_PREFIX)
            raise _refused(node, f"the value is no {kind}; put text in quotes") from None

    def _check(self, node: yaml.Node, sizes: dict[int, int]) -> int:
        """The number of nodes below one, aliases followed; each node is looked at once."""
        if (known := sizes.get(id(node))) is not None:
            if known == 0:
                raise _refused(node, "holds itself")
            return known
        if node.tag == _EQUALS:  # PyYAML has a type for a plain `=` and nothing that reads it
            node.tag = _TEXT
        if node.tag not in _TAGS:
            raise _refused(node, f"the tag {node.tag.replace(_PREFIX, '!!')} is not read here")
        sizes[id(node)] = 0
        below: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            below = [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        size = 1 + sum(self._check(each, sizes) for each in below)
        if size > _MOST_NODES:
            raise _refused(node, f"more than {_MOST_NODES:,} values once aliases are followed")
        sizes[id(node)] = size
        return size

    def _check_keys(self, node: yaml.MappingNode) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag not in (_TEXT, _MERGE, _EQUALS):
                if not isinstance(key.value, str):
                    raise _refused(key, "a key must be text, not a list or a mapping")
                kind = key.tag.removeprefix(_PREFIX)
                told = f"`{key.value}` is read as {kind}"
                raise _refused(key, f"a key must be text, and {told}; put it in quotes")
            if key.value in first:
                told = f"`{key.value}` is given twice, first on line {first[key.value]}"
                raise _refused(key, f"{told}; keep one")
            first[key.value] = key.start_mark.line + 1


def _refused(node: yaml.Node, problem: str) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)


def _loaded(text: str, source: str) -> list[Any]:
    try:
        return list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or "unreadable characters"
        if not isinstance(error, ConstructorError):
            problem = f"not valid YAML: {problem}"
        raise SettingsError(f"{where}: {problem}") from None
    except RecursionError:
        raise SettingsError(f"{source}: nested too deeply") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(k for k, _ in pairs).items() if times > 1)
        raise ValueError(f"`{twice}` is given twice; keep one")
    return found


def validated(model: type[M], data: Any, source: str) -> M:
    """Plain data as a model.

    Args:
        source: Where it was read, for the error.

    Raises:
        SettingsError: A key is wrong; says which and why, a line each.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [
            f"{source}: {'.'.join(map(str, item['loc']))}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError("\n".join(lines)) from None
