"""The role `grade`: how likely each chunk answers the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from serve_app.domain import Chunk
from serve_app.errors import RoleUnfilled
from serve_app.orchestration.calibration import Scale
from serve_app.orchestration.messages import told
from serve_app.orchestration.prompts import Prompt
from serve_app.orchestration.roles.asking import Asker, Form, a_list, an_object
from serve_app.orchestration.run import Run

_TOKENS, _OF_EACH = 24, 8
_MODELS_LEAST = 0.5


@dataclass(frozen=True, slots=True)
class Graded:
    """Probabilities that chunks answer a question, and from which on one is kept.

    A rule's are calibrated to lose no answer, and most of what it keeps is noise; a model's are
    taken at their word.
    """

    probabilities: Sequence[float]
    least: float

    def kept(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Those that are likely enough, in their order."""
        pairs = zip(chunks, self.probabilities, strict=True)
        return [chunk for chunk, likely in pairs if likely >= self.least]


@dataclass(frozen=True)
class ByRule:
    """The cosine of question and chunk, as the search found it.

    Args:
        read: What it means; `None`: nobody knows, and all are kept.
        least: Least probability.
    """

    read: Scale | None
    least: float

    async def __call__(self, run: Run, question: str, chunks: Sequence[Chunk]) -> Graded:
        if self.read is None:
            return Graded([1.0] * len(chunks), self.least)
        return Graded([self.read(each.relevance) for each in chunks], self.least)


class _Grades(Form):
    grades: list[Annotated[float, Field(ge=0, le=1)]]


_SCHEMA = an_object(grades=a_list({"type": "number"}))


@dataclass(frozen=True)
class ByModel:
    """A model reads all of them at once."""

    asker: Asker
    prompt: Prompt
    sources_as: Prompt

    async def __call__(self, run: Run, question: str, chunks: Sequence[Chunk]) -> Graded:
        """As `ByRule`.

        Raises:
            RoleUnfilled: There is not one grade for each.
            TriviumError: As `Asker.ask`.
        """
        said = f"{told(chunks, self.sources_as)}\n\nQuestion: {question}"
        most = _TOKENS + _OF_EACH * len(chunks)
        found = await self.asker.ask(run, self.prompt, said, _Grades, _SCHEMA, most)
        if len(found.grades) != len(chunks):
            raise RoleUnfilled(f"{len(found.grades)} grades for {len(chunks)} chunks")
        return Graded(found.grades, _MODELS_LEAST)
