"""Examples that an expert learns from: OpenAI's chat fine-tuning format, read and checked.

One JSON object a line: `{"messages": [{"role", "content"}, …]}`, the last message the assistant's.
An assistant message with `"weight": 0` is read and not learned, as OpenAI has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from serve_app.domain import Message, Role
from serve_app.errors import SettingsError
from serve_app.jsonl import objects

_ROLES = tuple(role for role in get_args(Role) if role != "tool")  # which no adapter is taught
_WANTED = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
_NAMED = 5  # rows that a message lists before it only counts


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation to learn from.

    Attributes:
        place: `file:line`, for messages.
        learned: Indices of the assistant's messages that are learned; at least one.
    """

    place: str
    messages: tuple[Message, ...]
    learned: tuple[int, ...]

    @property
    def question(self) -> tuple[tuple[str, str], ...]:
        """What the last learned answer answers; letter case and spacing make no difference."""
        asked = self.messages[: self.learned[-1]]
        return tuple((m.role, " ".join(m.content.split()).casefold()) for m in asked)


def read_examples(path: Path) -> list[Example]:
    """Every row of a file.

    Raises:
        SettingsError: The file cannot be read, has no rows, or a row is not an example; names file
            and line, and says what is wanted.
    """
    rows = [_example(f"{path}:{number}", row) for number, row in objects(path, _WANTED)]
    if not rows:
        raise SettingsError(f'{path}: it has no rows; each line is {{"messages": […]}}')
    return rows


def refuse_leaks(train: Sequence[Example], valid: Sequence[Example]) -> None:
    """A validation question that was trained on measures memory.

    Raises:
        SettingsError: Questions are in both; names the rows.
    """
    known = {each.question: each.place for each in reversed(train)}
    pairs = [(each.place, known[each.question]) for each in valid if each.question in known]
    if pairs:
        shown = [f"{one} = {other}" for one, other in pairs]
        raise SettingsError(
            f"{len(pairs)} rows of the validation data ask what the training data asks: "
            f"{listed(shown)}; remove them from one of the two"
        )


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _example(place: str, row: Mapping[str, Any]) -> Example:
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        raise SettingsError(f"{place}: it has no `messages`, a list of role and content")
    messages = tuple(_message(f"{place}: messages[{i}]", turn) for i, turn in enumerate(turns))
    learned = tuple(
        i
        for i, turn in enumerate(turns)
        if turn["role"] == "assistant" and turn.get("weight", 1) != 0
    )
    if not learned:
        raise SettingsError(
            f"{place}: it has no assistant turn to learn; add the answer as the last message, "
            "or remove the row"
        )
    if not any(message.role == "user" for message in messages[: learned[0]]):
        raise SettingsError(f"{place}: no user turn comes before the first answer; add it")
    if messages[-1].role != "assistant":
        raise SettingsError(
            f"{place}: the last message is the {messages[-1].role}'s; add the answer to it, "
            "or remove it"
        )
    return Example(place, messages, learned)


def _message(place: str, turn: Any) -> Message:
    if not isinstance(turn, dict) or turn.get("role") not in _ROLES:
        raise SettingsError(f"{place}: `role` must be one of {', '.join(_ROLES)}")
    content = turn.get("content")
    if not isinstance(content, str) or not content.strip():
        raise SettingsError(f"{place}: `content` must be text, and not empty")
    return Message(turn["role"], content)
