"""What the router reads of a conversation: the last user turn, and a little of what came before.

However long the messages are, what is kept is bounded: a pasted document is cut in its middle,
because what is asked stands at its head or at its tail.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from serve_app.domain import Message, estimated_tokens

_BOUND = 4096  # characters kept at each end of a text
_EARLIER_TURNS = 2
_SHORTEST_ASK = 20
_LONGEST_YES = 60  # characters
_TAIL = 400  # characters of the answer before, in which it may ask
_MARKS = "?\uff1f\u061f"
# Words of a reply that only agrees: those that say yes, those that answer a question or choose
# among what it offers, and what stands between them.
_AGREEING = frozenset(
    "yes yeah yep yup sure please absolutely definitely certainly go continue carry proceed keep "
    "do ja oui si sí sim gern gerne bitte weiter claro".split()
)
_CHOOSING = frozenset(
    "ok okay alright right fine good great perfect exactly both all either first second third "
    "former latter one two three 1 2 3 option number".split()
)
_BETWEEN = frozenset(
    "it that this so on ahead going of course the a and i you we would will can could id like love "
    "lets us want to with for me then now".split()
)


@dataclass(frozen=True, slots=True)
class Turns:
    """The text to route.

    Attributes:
        last: What the user says now; where that only agrees ("yes please"), what is agreed to.
        earlier: The user turns before it, oldest first, joined by newlines; often empty.
        said: Every turn of the user, where there is a pin on intents, which holds for all of them.
        matched: Names of the pins whose expression is found somewhere in the conversation; `None`
            where nobody has looked at all of it, and these texts have to do.
        tokens: Of the whole conversation, about; 0 where nobody has counted.
        collection: In which an answer would be looked up.
    """

    last: str
    earlier: str = ""
    said: tuple[str, ...] = ()
    matched: frozenset[str] | None = None
    tokens: int = 0
    collection: str = ""

    def with_last(self, text: str) -> Turns:
        """The same with another text in place of what the user says now."""
        return self if text == self.last else replace(self, last=text)

    @property
    def ask(self) -> str:
        """The last block of `last`: after pasted matter or worked examples comes the question."""
        blocks = [b for b in re.split(r"\n\s*\n", self.last.strip()) if b.strip()]
        return blocks[-1] if blocks and len(blocks[-1]) >= _SHORTEST_ASK else self.last


def turns(messages: Iterable[Message]) -> Turns:
    """The turns of a conversation; it must have a user turn."""
    conversation = list(messages)
    said = of_user(conversation)
    before = next((m.content for m in reversed(conversation) if m.role == "assistant"), "")
    meant = len(said)
    if agrees(said[-1], asked=any(mark in before[-_TAIL:] for mark in _MARKS)):
        # What is agreed to is the work of the turn before.
        while meant > 1 and agrees(said[meant - 1], asked=True):
            meant -= 1
    return Turns(
        said[meant - 1],
        "\n".join(said[max(0, meant - 1 - _EARLIER_TURNS) : meant - 1]),
        tokens=estimated_tokens(each.content for each in conversation),
    )


def agrees(text: str, *, asked: bool) -> bool:
    """Whether a turn says no more than "go on": its words name no work of their own.

    Args:
        asked: Whether it answers a question; "ok" alone agrees to nothing else.
    """
    if len(text) > _LONGEST_YES or any(mark in text for mark in _MARKS):
        return False
    words = set(re.findall(r"[^\W_]+", re.sub("['\u2019]", "", text.lower())))
    agreeing = _AGREEING | _CHOOSING if asked else _AGREEING
    return bool(words & agreeing) and words <= agreeing | _BETWEEN


def of_user(messages: Iterable[Message]) -> tuple[str, ...]:
    """Every turn of the user, each of bounded length."""
    return tuple(cut(message.content) for message in messages if message.role == "user")


def cut(text: str) -> str:
    """The text, or the two ends of a long one."""
    return text if len(text) <= 2 * _BOUND else f"{text[:_BOUND]} {text[-_BOUND:]}"
