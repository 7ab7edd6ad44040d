"""The role `rewrite`: from a conversation to what is searched for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StringConstraints

from serve_app.domain import Message
from serve_app.orchestration.prompts import Prompt
from serve_app.orchestration.roles.asking import Asker, Form, a_list, an_object
from serve_app.orchestration.run import Run

_PARTS = 4  # of a question
_LONGEST = 2_000  # characters of a query that a model writes
_TURNS, _OF_A_TURN, _OF_THE_LAST = 8, 2_000, 8_000  # of a conversation that a model reads
_SHORT = 4  # words; of fewer a question hardly says what it is about
_TOKENS = 400


@dataclass(frozen=True, slots=True)
class Vain:
    """Searches that brought no answer.

    Attributes:
        queries: What was searched for.
        missing: What a reader of what they found said that it lacked.
    """

    queries: tuple[str, ...]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What is searched for.

    Attributes:
        query: The question, so that it stands alone.
        parts: Questions that it consists of, each searched for by itself; none: it is one.
    """

    query: str
    parts: tuple[str, ...] = ()

    @property
    def queries(self) -> tuple[str, ...]:
        """What is searched for, each by itself."""
        return self.parts or (self.query,)


async def by_rule(run: Run, turns: Sequence[Message], vain: Vain | None) -> Rewritten:
    """The last question; where it is short, with the one before it. A second time, all of them.

    The last one comes first: of a long query an embedding model reads the beginning.
    """
    asked = [each.content for each in turns if each.role == "user"]
    short = len(asked[-1].split()) < _SHORT
    take = len(asked) if vain else 2 if short else 1
    return Rewritten("\n".join(reversed(asked[-take:])))


_Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=_LONGEST)]


class _Query(Form):
    query: Annotated[_Text, StringConstraints(min_length=1)]
    parts: list[_Text] = Field(default=[], max_length=_PARTS)


_SCHEMA = an_object(query={"type": "string"}, parts=a_list({"type": "string"}))


@dataclass(frozen=True)
class ByModel:
    """A model makes the question stand alone, and takes it apart.

    Attributes:
        inside: Whether it is one of the house. An outside one is not told what a reader of the
            evidence missed: no pin would know the evidence again in another's words.
    """

    asker: Asker
    prompt: Prompt
    inside: bool

    async def __call__(self, run: Run, turns: Sequence[Message], vain: Vain | None) -> Rewritten:
        """As `by_rule`.

        Raises:
            TriviumError: As `Asker.ask`.
        """
        said = _conversation(turns)
        if vain:
            said += "\n\nSearched for in vain:\n" + "\n".join(vain.queries)
            said += f"\nMissing: {vain.missing}" if vain.missing and self.inside else ""
        found = await self.asker.ask(run, self.prompt, said, _Query, _SCHEMA, _TOKENS)
        parts = tuple(filter(None, found.parts))
        # One part is the question itself.
        return Rewritten(found.query, parts if len(parts) > 1 else ())


def _conversation(turns: Sequence[Message]) -> str:
    spoken = [
        each for each in turns if each.role == "user" or (each.role == "assistant" and each.content)
    ]
    last = max(number for number, each in enumerate(spoken) if each.role == "user")
    before = [
        f"{each.role}: {_cut(each.content, _OF_A_TURN)}"
        for each in spoken[max(0, last - _TURNS) : last]
    ]
    earlier = "Conversation:\n" + "\n".join(before) + "\n\n" if before else ""
    return f"{earlier}Last question: {_cut(spoken[last].content, _OF_THE_LAST)}"


def _cut(text: str, most: int) -> str:
    """Its beginning and end, where it is longer."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"
