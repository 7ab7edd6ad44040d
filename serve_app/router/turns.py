"""What the router reads of a conversation: the last user turn, and a little of what came before.

However long the messages are, what is kept is bounded: a pasted document is cut in its middle,
because what is asked stands at its head or at its tail.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from serve_app.domain import Message

_BOUND = 4096  # characters kept at each end of a text
_EARLIER_TURNS = 2
_SHORTEST_ASK = 20


@dataclass(frozen=True, slots=True)
class Turns:
    """The text to route.

    Attributes:
        last: What the user says now.
        earlier: The user turns before it, oldest first, joined by newlines; often empty.
        said: Every turn of the user, where there is a pin on intents, which holds for all of them.
        matched: Names of the pins whose expression is found somewhere in the conversation; `None`
            where nobody has looked at all of it, and these texts have to do.
    """

    last: str
    earlier: str = ""
    said: tuple[str, ...] = ()
    matched: frozenset[str] | None = None

    @property
    def ask(self) -> str:
        """The last block of `last`: after pasted matter or worked examples comes the question."""
        blocks = [b for b in re.split(r"\n\s*\n", self.last.strip()) if b.strip()]
        return blocks[-1] if blocks and len(blocks[-1]) >= _SHORTEST_ASK else self.last


def turns(messages: Iterable[Message]) -> Turns:
    """The turns of a conversation; it must have a user turn."""
    said = of_user(messages)
    return Turns(said[-1], "\n".join(said[-1 - _EARLIER_TURNS : -1]))


def of_user(messages: Iterable[Message]) -> tuple[str, ...]:
    """Every turn of the user, each of bounded length."""
    return tuple(cut(message.content) for message in messages if message.role == "user")


def cut(text: str) -> str:
    """The text, or the two ends of a long one."""
    return text if len(text) <= 2 * _BOUND else f"{text[:_BOUND]} {text[-_BOUND:]}"
